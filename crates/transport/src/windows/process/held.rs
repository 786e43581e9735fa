//! A child that is held in a job, together with all its descendants.

use std::io;
use std::os::windows::io::{AsHandle, OwnedHandle};
use std::os::windows::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::OnceLock;

use super::job::{self, Job, KILLED};
use super::reaper::{self, Reaped};
use super::wait;
use crate::control::BoxFuture;
use crate::process::end::End;

/// A child and its job. Dropping it kills all processes in the job.
pub(crate) struct Held {
    job: Job,
    /// While this handle is open, the process ID is not reused.
    process: OwnedHandle,
    pid: u32,
    /// True if the child shares our console and therefore receives CTRL_BREAK.
    shares_console: bool,
    /// How many other processes were killed with the child. They are counted only once, because
    /// processes that are being killed are still included in the system's count.
    left: OnceLock<u32>,
}

/// The name, for messages, of the event that makes a child end.
pub(crate) const TERMINATION: &str = "CTRL_BREAK";

/// Returns the exit status of a killed process.
pub(crate) fn killed() -> ExitStatus {
    ExitStatus::from_raw(KILLED)
}

impl Held {
    pub(super) fn new(job: Job, process: OwnedHandle, pid: u32, shares_console: bool) -> Self {
        Self { job, process, pid, shares_console, left: OnceLock::new() }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        Some(self.pid)
    }

    /// Waits until the child has ended. The callback is never called, because Windows has no signals
    /// that stop a process.
    pub(crate) fn ended(
        &self,
        _: impl Fn(Option<String>) + Send + 'static,
    ) -> io::Result<BoxFuture<'static, End>> {
        let ended = wait::ended(self.process.try_clone()?)?;
        Ok(Box::pin(async move { End::Status(ended.await.ok()) }))
    }

    /// Returns true if the child can be made to end with CTRL_BREAK, which only processes on our console
    /// receive.
    pub(crate) fn can_be_told(&self) -> bool {
        self.shares_console
    }

    /// Sends CTRL_BREAK to the child's process group.
    pub(crate) fn terminate(&self) {
        if let Err(error) = job::interrupt(self.pid) {
            tracing::debug!(pid = self.pid, "cannot send CTRL_BREAK: {error}");
        }
    }

    /// Kills all processes in the job.
    pub(crate) fn kill(&self) {
        self.left.get_or_init(|| {
            let itself = u32::from(wait::is_running(self.process.as_handle()));
            self.job.active().unwrap_or(0).saturating_sub(itself)
        });
        self.job.kill();
    }

    /// Kills all processes at once and passes the job to the reaper. Never blocks. `then` is called when
    /// the system reports that no process is left. Returns the exit status if the child had already
    /// ended.
    pub(crate) fn end(self, then: Option<Reaped>) -> Option<ExitStatus> {
        let status = wait::status(self.process.as_handle());
        self.kill();
        reaper::reap(self.job, self.left.into_inner().unwrap_or(0), then);
        status
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::ProcessConfig;
    use crate::windows::process::{resolve::resolve, start::start};

    /// Tests a process that was just being started when the other processes in its job were killed.
    #[tokio::test]
    async fn process_added_to_an_ended_job_is_killed() {
        let config = ProcessConfig::new("cmd");
        let program = resolve(&config.program, None).unwrap();
        let started = start(&config, program).await.unwrap();
        let (told, over) = oneshot::channel();
        // The child has not been killed, and its stdin stays open.
        let Held { job, process, .. } = started.held;
        assert!(wait::is_running(process.as_handle()));
        reaper::reap(job, 0, Some(Box::new(move |_| told.send(()).unwrap())));
        timeout(Duration::from_secs(50), over).await.unwrap().unwrap();
        assert!(!wait::is_running(process.as_handle()));
    }
}
