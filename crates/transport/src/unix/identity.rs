//! Who is on the other end of a Unix socket.

use std::fmt;

/// Who is on the other end, as the operating system vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The process, where it is known. It may have ended since.
    pub pid: Option<u32>,
    /// The effective user when the connection was made.
    pub uid: u32,
    /// The effective group when the connection was made.
    pub gid: u32,
}

impl PeerIdentity {
    /// Whether both are processes of the same user.
    pub fn is_same_user(&self, other: &Self) -> bool {
        self.uid == other.uid
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pid) = self.pid {
            write!(f, "pid {pid}, ")?;
        }
        write!(f, "uid {}", self.uid)
    }
}
