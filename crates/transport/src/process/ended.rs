//! Waiting for the end of a child of this process without reaping it.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};

#[cfg(target_os = "linux")]
pub(super) struct Watch(tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>);

#[cfg(target_os = "linux")]
impl Watch {
    pub(super) fn new(pid: Pid) -> io::Result<Self> {
        use rustix::process::{PidfdFlags, pidfd_open};
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let interest = tokio::io::Interest::READABLE;
        crate::readiness::register(pidfd, interest).map(Self)
    }

    pub(super) async fn wait(self) {
        // This fails only when the runtime is shut down, which also drops this task.
        let _ = self.0.readable().await;
    }
}

/// On other systems, a thread waits until the child ends.
#[cfg(not(target_os = "linux"))]
pub(super) struct Watch(tokio::sync::oneshot::Receiver<()>);

#[cfg(not(target_os = "linux"))]
impl Watch {
    pub(super) fn new(pid: Pid) -> io::Result<Self> {
        let (ended, wait) = tokio::sync::oneshot::channel();
        let builder = std::thread::Builder::new().name("tieline-wait".into());
        builder.spawn(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
            let _ = ended.send(());
        })?;
        Ok(Self(wait))
    }

    pub(super) async fn wait(self) {
        let _ = self.0.await;
    }
}

/// Returns the exit status of a child that has ended, without reaping it.
pub(super) fn peek(pid: Pid) -> Option<ExitStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    waitid(WaitId::Pid(pid), options).ok().flatten().map(|status| wait_status(&status))
}

/// Converts the status to the format of `wait`: the exit code in the second byte, or the signal in the
/// first.
fn wait_status(status: &WaitIdStatus) -> ExitStatus {
    let signal = status.terminating_signal().unwrap_or_default();
    let core = if status.dumped() { 0x80 } else { 0 };
    let code = status.exit_status().unwrap_or_default();
    ExitStatus::from_raw((code & 0xff) << 8 | signal | core)
}
