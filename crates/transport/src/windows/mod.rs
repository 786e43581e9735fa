//! Windows-specific modules.

mod ended;
pub(crate) mod names;
pub(crate) mod pipe;
#[cfg(feature = "process")]
pub(crate) mod process;
mod reader;
mod security;
pub(crate) mod stdio;

use std::fmt;
use std::io;

use windows_sys::Win32::Foundation::{
    ERROR_COMMITMENT_LIMIT, ERROR_NO_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_MEMORY,
    ERROR_NOT_ENOUGH_QUOTA, ERROR_OUTOFMEMORY, ERROR_TOO_MANY_OPEN_FILES,
};
use windows_sys::Win32::Networking::WinSock::{WSAEMFILE, WSAENOBUFS};

pub use pipe::{PipeReadHalf, PipeWriteHalf};
pub use security::Sid;

/// The identity of the peer process, as reported by the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The process ID, if known. The process may have ended in the meantime.
    pub pid: Option<u32>,
    /// The user of the process, if known.
    pub user: Option<Sid>,
}

impl PeerIdentity {
    /// Returns true if both processes belong to the same user, as far as the users are known.
    pub fn is_same_user(&self, other: &Self) -> bool {
        self.user == other.user
    }
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

/// Returns true if `error` is one of these system errors (winerror.h).
fn is_code(error: &io::Error, codes: &[u32]) -> bool {
    let code = error.raw_os_error().and_then(|code| u32::try_from(code).ok());
    code.is_some_and(|code| codes.contains(&code))
}

/// Returns true if the process or the system is out of handles or memory.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    is_code(
        error,
        &[
            ERROR_TOO_MANY_OPEN_FILES,
            ERROR_NOT_ENOUGH_MEMORY,
            ERROR_OUTOFMEMORY,
            ERROR_NO_SYSTEM_RESOURCES,
            ERROR_NOT_ENOUGH_QUOTA,
            ERROR_COMMITMENT_LIMIT,
            // Sockets have their own error codes.
            WSAEMFILE as u32,
            WSAENOBUFS as u32,
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::error::common_kind;

    #[test]
    fn exhaustion_is_recognized_by_error_code() {
        for code in [4, 8, 14, 1450, 1455, 1816, 10024, 10055] {
            let kind = common_kind(&io::Error::from_raw_os_error(code));
            assert!(matches!(kind, ErrorKind::ResourcesExhausted), "{code}: {kind:?}");
        }
        for (code, expected) in [(5, "PermissionDenied"), (2, "Io"), (231, "Io")] {
            let kind = common_kind(&io::Error::from_raw_os_error(code));
            assert_eq!(format!("{kind:?}"), expected, "{code}");
        }
    }
}
