//! How a child process ended.

use std::process::ExitStatus;

/// How a child ended.
pub(crate) enum End {
    /// The child exited or was killed. The status is `None` if it is unknown.
    Status(Option<ExitStatus>),
    /// Another process killed its guardian, and the kernel killed the child with it.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    GuardianLost,
}
