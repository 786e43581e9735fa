//! What a guardian does: the program that [`Guardian`](crate::Guardian) starts.
//!
//! Two threads: this one waits for children, its own and the orphans that come back to it, and
//! another listens to us. It has no runtime and no copy of the child's stdio, writes nothing, and
//! ends when the kernel says that it has no child any more.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, set_child_subreaper,
    wait, waitid,
};

use super::wire::{Order, Report, Request};
use super::{exec, tree};

/// Does what the socket on stdin asks for.
pub(crate) fn run() -> ! {
    let done = take_stdin().and_then(|mut line| {
        let (request, stdio) = Request::receive(&mut line)?;
        guard(line, &request, stdio)
    });
    // Whoever it is, they did not start this as it is meant.
    let status = if let Err(error) = done {
        let _ = writeln!(io::stderr(), "this is a guardian of tieline's, started by it: {error}");
        2
    } else {
        0
    };
    exit(status)
}

/// The socket, which no program inherits; stdin is nothing from now on.
fn take_stdin() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(socket.into())
}

fn guard(mut line: UnixStream, request: &Request, stdio: Vec<OwnedFd>) -> io::Result<()> {
    let signals = exec::take_no_signal();
    set_child_subreaper(Some(getpid()))?;
    let (child, report) = match start(request, stdio, signals) {
        Ok(child) => (Some(child), Report::Started(child.as_raw_nonzero().get())),
        Err(error) => (None, Report::Failed(error.raw_os_error().unwrap_or_default())),
    };
    // When nobody listens any more, the line is at its end, which is noticed below.
    let _ = line.write_all(&report.encode());
    let listening = line.try_clone()?;
    let ward = Ward { line, child, is_ending: child.is_none(), is_child_killed: false };
    let ward = Arc::new(Mutex::new(ward));
    let listener = ward.clone();
    // Without a thread there is nobody to listen for the end: let it be now.
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(move || listen(listening, &listener))?;
    loop {
        let ended = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        lock(&ward).settle();
        if matches!(ended, Err(rustix::io::Errno::CHILD)) {
            // There is nobody who could become a child of ours.
            std::thread::park();
        }
    }
}

/// What a guardian answers for. Whoever has the lock may signal: nobody is reaped meanwhile.
struct Ward {
    line: UnixStream,
    /// Until it has ended.
    child: Option<Pid>,
    is_ending: bool,
    is_child_killed: bool,
}

impl Ward {
    /// Reaps who has ended; kills who is left, where that is asked for, and goes when nobody is.
    fn settle(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if self.child == Some(pid) => {
                    self.child = None;
                    let _ = self.line.write_all(&Report::Ended(status.as_raw()).encode());
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => break,
                Err(_) if self.is_ending => exit(0),
                Err(_) => return,
            }
        }
        match self.child {
            _ if !self.is_ending => {}
            // Mostly there is nobody else, and then nobody has to be looked for: this is called
            // again when it has ended, and if it takes its time.
            Some(child) if !std::mem::replace(&mut self.is_child_killed, true) => {
                let _ = kill_process(child, Signal::KILL);
            }
            _ => {
                for child in tree::children() {
                    let _ = kill_process(child, Signal::KILL);
                }
            }
        }
    }
}

/// The kernel lists processes while they come and go, so one that was just orphaned may be missed.
/// And one that cannot end yet is not asked all the time.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const LOOK_AT_LEAST: Duration = Duration::from_millis(200);

fn listen(mut line: UnixStream, ward: &Mutex<Ward>) {
    let mut byte = [0];
    loop {
        match line.read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(1) if Order::decode(byte) == Order::Terminate => {
                let _ward = lock(ward);
                tree::terminate();
            }
            _ => break,
        }
    }
    lock(ward).is_ending = true;
    let mut pause = LOOK_AGAIN;
    loop {
        lock(ward).settle();
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK_AT_LEAST);
    }
}

fn lock(ward: &Mutex<Ward>) -> MutexGuard<'_, Ward> {
    ward.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn start(request: &Request, stdio: Vec<OwnedFd>, signals: exec::Blocked) -> io::Result<Pid> {
    let [stdin, stdout, stderr] =
        <[OwnedFd; 3]>::try_from(stdio).map_err(|_| rustix::io::Errno::BADF)?;
    let mut command = Command::new(&request.program);
    command.process_group(0).stdin(stdin).stdout(stdout).stderr(stderr);
    if let Some(cwd) = &request.cwd {
        command.current_dir(cwd);
    }
    exec::tie(&mut command, request, signals)?;
    // Our copies of its stdio go with the command.
    Ok(Pid::from_child(&command.spawn()?))
}
