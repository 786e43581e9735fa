//! Watches for the end of the process named by `--with-parent`.

use std::fmt;
use std::io;
use std::str::FromStr;

use rustix::process::{Pid, getppid};

/// The process to watch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Watched {
    /// The parent process at the time when watching starts.
    Parent,
    /// Any process that is visible to this user.
    Process(Pid),
}

impl FromStr for Watched {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pid = || text.parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
        match text {
            "parent" => Ok(Self::Parent),
            _ => pid().map(Self::Process).ok_or_else(|| "not a process ID".into()),
        }
    }
}

/// A process ID with a decimal `Display`.
pub(crate) struct Number(Pid);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_raw_nonzero().fmt(f)
    }
}

/// Starts a thread that calls `then` when the process has ended, or at once if it has already ended.
pub(crate) fn watch(
    watched: Watched,
    then: impl FnOnce(Number) + Send + 'static,
) -> io::Result<()> {
    let parent = getppid();
    let pid = match watched {
        Watched::Process(pid) => Some(pid),
        Watched::Parent => parent,
    };
    let Some(pid) = pid else {
        let why =
            "--with-parent: the parent process is outside this PID namespace and cannot be watched";
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    };
    let is_parent = parent == Some(pid);
    let process = Process::open(pid)?;
    std::thread::Builder::new().name("tieline-parent".into()).spawn(move || {
        // The parent's PID can be reused only after this process has been reparented.
        let is_it = !is_parent || getppid() == Some(pid);
        if let Some(process) = process.filter(|_| is_it) {
            process.wait();
        }
        then(Number(pid));
    })?;
    Ok(())
}

#[cfg(target_os = "linux")]
struct Process(std::os::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl Process {
    /// Opens the process, or returns `None` if it has already ended.
    fn open(pid: Pid) -> io::Result<Option<Self>> {
        use rustix::process::{PidfdFlags, pidfd_open};
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => Ok(Some(Self(process))),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn wait(&self) {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = poll(&mut ended, None) {}
    }
}

#[cfg(not(target_os = "linux"))]
struct Process(Pid);

#[cfg(not(target_os = "linux"))]
impl Process {
    /// Opens the process, or returns `None` if it has already ended.
    fn open(pid: Pid) -> io::Result<Option<Self>> {
        Ok(Self(pid).is_there().then_some(Self(pid)))
    }

    fn is_there(&self) -> bool {
        use rustix::io::Errno;
        rustix::process::test_kill_process(self.0) != Err(Errno::SRCH)
    }

    /// Polls once a second, because there are no process descriptors.
    fn wait(&self) {
        let was_parent = getppid() == Some(self.0);
        while self.is_there() && was_parent == (getppid() == Some(self.0)) {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}
