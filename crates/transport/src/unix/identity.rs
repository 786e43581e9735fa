//! The identity of the process on the other end of a Unix socket.

use std::fmt;

/// The identity of the peer process, as reported by the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The process ID, if known. The process may have ended in the meantime.
    pub pid: Option<u32>,
    /// The effective user ID when the connection was made.
    pub uid: u32,
    /// The effective group ID when the connection was made.
    pub gid: u32,
}

impl PeerIdentity {
    /// Returns true if both processes belong to the same user.
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
