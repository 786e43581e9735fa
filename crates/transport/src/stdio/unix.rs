//! Stdin and stdout on Unix. The descriptors are duplicated and never made non-blocking, because other
//! processes may share them. A thread waits in `poll` for the descriptor and for a pipe that is closed
//! to stop the thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::stdio;

use crate::anonymous_pipe::anonymous_pipe;
use crate::hangup::Hangup;

/// The number of bytes that a pipe accepts without blocking if it polls as writable (PIPE_BUF on Linux).
const WRITE: usize = 4096;

/// The original stdin.
pub(super) struct Source(OwnedFd);

/// The original stdout.
pub(super) struct Sink(OwnedFd);

/// The pipe that is closed to stop the thread.
pub(super) type Stopped = OwnedFd;

/// A thread that waits in `poll`. Dropping it stops the thread without waiting for the thread's end.
pub(super) struct Worker {
    _stop: OwnedFd,
}

impl Worker {
    pub(super) fn start(
        name: &str,
        run: impl FnOnce(&Stopped) + Send + 'static,
    ) -> io::Result<Self> {
        let (stopped, stop) = anonymous_pipe()?;
        std::thread::Builder::new().name(name.into()).spawn(move || run(&stopped))?;
        Ok(Self { _stop: stop })
    }
}

/// Takes the original descriptors. Afterwards, descriptor 0 is the null device and descriptor 1 is
/// stderr.
pub(super) fn take() -> io::Result<(Source, Sink)> {
    // All steps that can fail are done before the first change. The duplicates are close-on-exec,
    // because a child that inherited one would keep the line open.
    let source = Source(duplicate(stdio::stdin())?);
    let sink = Sink(duplicate(stdio::stdout())?);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    stdio::dup2_stdin(&null)?;
    // This process may have been started without a stderr.
    match stdio::dup2_stdout(stdio::stderr()) {
        Ok(()) => {}
        Err(_) => stdio::dup2_stdout(&null)?,
    }
    Ok((source, sink))
}

/// Duplicates `fd` to a number above the three standard descriptors, which are replaced next.
fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// How long to wait for a read that has begun. The read does not block, because there was input.
pub(super) const READ: Duration = Duration::from_secs(1);

impl Source {
    /// Waits until there is input. Returns false when stopped.
    pub(super) fn wait(&self, stopped: &Stopped) -> io::Result<bool> {
        is_ready(&self.0, PollFlags::IN, stopped)
    }

    /// Reads the available bytes. Returns `None` if nothing was read and the caller must try again.
    pub(super) fn read(&self, chunk: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.0, chunk) {
            // Another process that shares the descriptor may have made it non-blocking, or read first.
            Err(Errno::INTR | Errno::AGAIN) => Ok(None),
            read => Ok(Some(read?)),
        }
    }

    /// Returns how many bytes are waiting in a pipe or socket, or follow the current position in a file.
    /// Input from a terminal or device is not counted.
    pub(super) fn unread(&self) -> u64 {
        use rustix::fs::{FileType, SeekFrom, fstat, seek};

        let Ok(status) = fstat(&self.0) else { return 0 };
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Fifo | FileType::Socket => {
                crate::readiness::unread(&self.0).unwrap_or_default()
            }
            FileType::RegularFile => {
                let length = u64::try_from(status.st_size).unwrap_or_default();
                seek(&self.0, SeekFrom::Current(0)).map_or(0, |at| length.saturating_sub(at))
            }
            _ => 0,
        }
    }
}

impl Sink {
    pub(super) fn reader(&mut self) -> io::Result<Reader> {
        Ok(Reader::Unwatched(duplicate(&self.0)?))
    }

    /// Waits for room and writes some bytes. Fails when stopped.
    pub(super) fn write_piece(&mut self, bytes: &[u8], stopped: &Stopped) -> io::Result<usize> {
        while is_ready(&self.0, PollFlags::OUT, stopped)? {
            match rustix::io::write(&self.0, bytes.get(..WRITE).unwrap_or(bytes)) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                written => return Ok(written?),
            }
        }
        Err(Errno::CANCELED.into())
    }
}

/// A watch on the reader of stdout. It is registered only when it is first polled.
pub(super) enum Reader {
    Unwatched(OwnedFd),
    Watched(Hangup),
    /// Whether there is a reader is not known: stdout is a file, or this side has closed it.
    Unknown,
}

impl Reader {
    /// Returns a watch on the reader of this process's stdout.
    pub(super) fn of_stdout() -> Self {
        duplicate(stdio::stdout()).map_or(Self::Unknown, Self::Unwatched)
    }

    /// Polls until the reader has closed its end of the pipe, socket or terminal.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Unwatched(stdout) = self {
            *self = Hangup::watch(stdout).map_or(Self::Unknown, Self::Watched);
        }
        match self {
            Self::Watched(hangup) => hangup.poll(cx),
            Self::Unwatched(_) | Self::Unknown => Poll::Pending,
        }
    }
}

/// Waits until `fd` is ready. Returns false when stopped.
fn is_ready(fd: &OwnedFd, wanted: PollFlags, stopped: &Stopped) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::new(fd, wanted), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let [awaited, stop] = &fds;
        if !stop.revents().is_empty() {
            return Ok(false);
        }
        if !awaited.revents().is_empty() {
            return Ok(true);
        }
    }
}
