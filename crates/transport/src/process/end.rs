//! How a child process ended.

use std::process::ExitStatus;

/// How a child ended.
pub(crate) enum End {
    /// It exited or was killed, with this status if known.
    Status(Option<ExitStatus>),
    /// Its guardian was killed from outside, and the kernel killed the child with it.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    GuardianLost,
}
