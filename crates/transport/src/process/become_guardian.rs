//! The entry point of a process that was started as a guardian.

use crate::guardian::{ASKED, Guardian};

impl Guardian {
    /// Returns a guardian that is this program, started again. This MUST be called first in `main`,
    /// before other threads exist, and therefore not inside `#[tokio::main]`. In a process that was
    /// started as a guardian, this function does not return. If such a process already has other
    /// threads, it prints an error to stderr and exits.
    pub fn of_this_program() -> Self {
        let is_asked = std::env::args_os().nth(1).is_some_and(|asked| asked == ASKED);
        if is_asked {
            become_guardian();
        }
        // This is the running executable even if its file was replaced.
        Self::new("/proc/self/exe")
    }
}

#[cfg(target_os = "linux")]
use super::guardian::guard as become_guardian;

#[cfg(not(target_os = "linux"))]
fn become_guardian() -> ! {
    std::process::exit(2)
}
