//! How we hold a child: by a job, in which it and all that comes of it is.

use std::io;
use std::os::windows::io::{AsHandle, OwnedHandle};
use std::os::windows::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::OnceLock;

use super::job::{self, Job, KILLED};
use super::reaper::{self, Reaped};
use super::wait;
use crate::BoxFuture;
use crate::process::End;

/// A child and its job. Dropping it kills all that is in the job.
pub(crate) struct Held {
    job: Job,
    /// As long as it is open, the process number is nobody else's.
    process: OwnedHandle,
    pid: u32,
    /// It has our console, and so hears CTRL_BREAK.
    shares_console: bool,
    /// How many others were killed with it: counted once, as those who are being killed still count.
    left: OnceLock<u32>,
}

/// How a child is asked to end.
pub(crate) const TERMINATION: &str = "CTRL_BREAK";

/// The status of one that was killed.
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

    /// Completes when it has ended. Nothing stops a process as a signal does elsewhere.
    pub(crate) fn ended(
        &self,
        _: impl Fn(Option<String>) + Send + 'static,
    ) -> io::Result<BoxFuture<'static, End>> {
        let ended = wait::ended(self.process.try_clone()?)?;
        Ok(Box::pin(async move { End::Status(ended.await.ok()) }))
    }

    /// Whether it can be told to end: by CTRL_BREAK, which only those hear who share our console.
    pub(crate) fn can_be_told(&self) -> bool {
        self.shares_console
    }

    /// CTRL_BREAK, for those of its group who have not made one of their own.
    pub(crate) fn terminate(&self) {
        if let Err(error) = job::interrupt(self.pid) {
            tracing::debug!(pid = self.pid, "no CTRL_BREAK: {error}");
        }
    }

    /// Kills all that is in the job.
    pub(crate) fn kill(&self) {
        self.left.get_or_init(|| {
            let itself = u32::from(wait::is_running(self.process.as_handle()));
            self.job.active().unwrap_or(0).saturating_sub(itself)
        });
        self.job.kill();
    }

    /// Kills all of it at once and gives it up. Never blocks. `then` is called when the system says that
    /// nobody is left; the status is that of a child which had ended.
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

    /// As one is that was just being started when the others in its job were killed.
    #[tokio::test]
    async fn who_is_in_a_job_that_is_given_up_is_killed_whenever_it_came() {
        let config = ProcessConfig::new("cmd");
        let program = resolve(&config.program, None).unwrap();
        let started = start(&config, program).await.unwrap();
        let (told, over) = oneshot::channel();
        // It was not killed, and its stdin stays open.
        let Held { job, process, .. } = started.held;
        assert!(wait::is_running(process.as_handle()));
        reaper::reap(job, 0, Some(Box::new(move |_| told.send(()).unwrap())));
        timeout(Duration::from_secs(50), over).await.unwrap().unwrap();
        assert!(!wait::is_running(process.as_handle()));
    }
}
