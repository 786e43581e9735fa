//! What only Windows has, or has in its own way.

mod ended;
pub(crate) mod names;
pub(crate) mod pipe;
pub(crate) mod process;
mod security;
pub(crate) mod stdio;

use std::fmt;
use std::io;

pub use pipe::{PipeReadHalf, PipeWriteHalf};
pub use security::Sid;

/// Who is on the other end, as the operating system vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The process, where it is known. It may have ended since.
    pub pid: Option<u32>,
    /// Whose process it is, where that can be asked.
    pub user: Option<Sid>,
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}, ")?,
            None => f.write_str("unknown process, ")?,
        }
        match self.user {
            Some(user) => write!(f, "user {user}"),
            None => f.write_str("unknown user"),
        }
    }
}

/// Whether the system reports one of these (winerror.h).
fn is_code(error: &io::Error, codes: &[u32]) -> bool {
    let code = error.raw_os_error().and_then(|code| u32::try_from(code).ok());
    code.is_some_and(|code| codes.contains(&code))
}
