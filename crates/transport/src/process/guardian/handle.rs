//! This process's side of a guardian.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};

use rustix::net::{SendFlags, Shutdown, shutdown};
use rustix::process::{Pid, Signal};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::last_reports::LastReports;
use super::wire::{MAX_MESSAGE_BYTES, Order, Report, Request, send};
use crate::control::BoxFuture;
use crate::environment::Environment;
use crate::guardian;
use crate::guardian::{Guardian, Hold};
use crate::process::config::ProcessConfig;
use crate::process::reaper::{self, Reaped};

/// A handle on a guardian and its child. Dropping it closes the guardian's socket, which kills both at
/// once.
pub(in super::super) struct GuardianHandle {
    /// The guardian; `None` after it was passed to the reaper.
    guardian: Option<Child>,
    line: Arc<UnixStream>,
    /// How many processes a keeper reported as killed, if the report arrived before the keeper ended.
    gone: Arc<OnceLock<u32>>,
    /// The child's process ID. Only the guardian may send signals to it.
    pub(in super::super) pid: Pid,
}

impl GuardianHandle {
    /// Starts `program` under a guardian. Cancel-safe: a dropped attempt leaves no process.
    pub(in super::super) async fn start(
        by: &Guardian,
        config: &ProcessConfig,
        program: &Path,
        stdio: [OwnedFd; 3],
    ) -> io::Result<Self> {
        if matches!(by.hold(), Hold::Auto | Hold::Cgroup) {
            reaper::sweep_at_first();
        }
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let line = Arc::new(UnixStream::from_std(ours)?);
        let mut command = Command::new(by.program());
        command.arg(guardian::ASKED).args(by.args()).process_group(0);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        // Pass only the variable that the guardian needs to start, because other processes can read its
        // environment.
        let env = Environment::only(["LD_LIBRARY_PATH"]).resolve(std::env::vars_os());
        command.env_clear().envs(env);
        let started = reaper::spawn(command).await.map_err(|error| match error.kind() {
            // Without the prefix, the error would seem to be about the program.
            kind @ (io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => io::Error::new(
                kind,
                format!("cannot start its guardian {}: {error}", by.program().display()),
            ),
            _ => error,
        })?;
        // From here on, dropping `handle` ends the guardian.
        let pid = Pid::from_child(&started);
        let mut handle = Self { guardian: Some(started), line, gone: Arc::default(), pid };

        let request = Request {
            program: program.to_owned(),
            argv: [&config.program].into_iter().chain(&config.args).cloned().collect(),
            cwd: config.cwd.clone(),
            env: config.env.resolve(std::env::vars_os()),
            hold: by.hold(),
            keeper: reaper::is_shared(),
        };
        let request = request.encode();
        if request.len() > MAX_MESSAGE_BYTES {
            return Err(rustix::io::Errno::TOOBIG.into());
        }
        match handle.request(&request, stdio).await {
            // If the guardian ended before it read the request, the end of the line is reported below.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
        match report(&handle.line).await? {
            Some(Report::Started(held, pid)) => {
                handle.pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
                tracing::debug!(pid, ?held, "{} runs under a guardian", config.name());
                Ok(handle)
            }
            Some(Report::Failed(error)) => Err(io::Error::from_raw_os_error(error)),
            Some(Report::Refused(error)) => {
                let error = io::Error::from_raw_os_error(error);
                Err(io::Error::other(Refused { hold: by.hold(), error }))
            }
            Some(_) | None => {
                Err(io::Error::other("the guardian ended before it could start the program"))
            }
        }
    }

    async fn request(&self, message: &[u8], stdio: [OwnedFd; 3]) -> io::Result<()> {
        let mut left = message;
        let stdio = stdio.each_ref().map(AsFd::as_fd);
        let mut descriptors: &[BorrowedFd<'_>] = &stdio;
        while !left.is_empty() {
            let send = || send(&*self.line, left, descriptors);
            let sent = self.line.async_io(Interest::WRITABLE, send).await?;
            left = left.get(sent..).unwrap_or_default();
            descriptors = &[];
        }
        Ok(())
    }

    /// Sends SIGTERM to the child and all its descendants.
    pub(in super::super) fn terminate(&self) {
        self.tell(Order::Terminate);
    }

    /// Sends SIGKILL to the child and all its descendants.
    pub(in super::super) fn kill(&self) {
        self.tell(Order::Kill);
    }

    fn tell(&self, order: Order) {
        // The guardian may have been stopped by a signal.
        self.guardian.iter().for_each(wake);
        // The buffer has room for all orders. If the guardian has ended, it does not need the order.
        let _ = rustix::net::send(&*self.line, &order.encode(), SendFlags::NOSIGNAL);
    }

    /// Waits for the child's end and returns its wait status, or `None` if the guardian ends first.
    /// Until then, `stopped` is called with the signal when one stops the child, and with `None` when
    /// the child continues.
    pub(in super::super) fn ended(
        &self,
        stopped: impl Fn(Option<i32>) + Send + 'static,
    ) -> BoxFuture<'static, Option<ExitStatus>> {
        let (line, gone) = (self.line.clone(), self.gone.clone());
        Box::pin(async move {
            loop {
                match report(&line).await {
                    Ok(Some(Report::Stopped(signal))) => stopped(Some(signal)),
                    Ok(Some(Report::Continued)) => stopped(None),
                    Ok(Some(Report::Ended(status))) => return Some(ExitStatus::from_raw(status)),
                    Ok(Some(Report::Ending)) => {}
                    Ok(Some(Report::Gone(killed))) => {
                        let _ = gone.set(killed.unsigned_abs());
                        return None;
                    }
                    _ => return None,
                }
            }
        })
    }

    /// Ends all processes at once: the guardian kills the child and all its descendants, and the reaper
    /// waits for the guardian.
    pub(in super::super) fn release(mut self, then: Option<Reaped>) {
        self.close(then);
    }

    fn close(&mut self, then: Option<Reaped>) {
        let Some(guardian) = self.guardian.take() else { return };
        // A process that is being started may briefly hold a copy of the socket, so closing it is not
        // enough. After this shutdown, the last reports can still be read.
        let _ = shutdown(&*self.line, Shutdown::Write);
        wake(&guardian);
        let reports = LastReports::after(self.gone.get().copied());
        reaper::reap_guardian(guardian, self.line.clone(), reports, then);
    }
}

impl Drop for GuardianHandle {
    fn drop(&mut self) {
        self.close(None);
    }
}

/// Continues a guardian that was stopped by a signal. It must be a child of this process that has not
/// been reaped.
pub(in super::super) fn wake(guardian: &Child) {
    let _ = rustix::process::kill_process(Pid::from_child(guardian), Signal::CONT);
}

/// The error when the child cannot be contained as requested.
#[derive(Debug)]
pub(in super::super) struct Refused {
    pub(in super::super) hold: Hold,
    error: io::Error,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hold {
            Hold::Isolated => write!(f, "cannot create namespaces: {}", self.error),
            _ => write!(f, "cannot create a cgroup below this process's own: {}", self.error),
        }
    }
}

impl std::error::Error for Refused {}

/// Returns the next report, or `None` at the end of the line.
async fn report(line: &UnixStream) -> io::Result<Option<Report>> {
    let mut report = [0; Report::LENGTH];
    let mut filled = 0;
    loop {
        line.readable().await?;
        match line.try_read(report.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => return Ok(None),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The guardian ended without reading an order.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
        if filled == Report::LENGTH {
            return Ok(Report::decode(report));
        }
    }
}
