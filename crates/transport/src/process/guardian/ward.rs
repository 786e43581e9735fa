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
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, getppid, kill_process,
    set_child_subreaper, set_parent_process_death_signal, wait, waitid,
};

use super::tree;
use super::wire::{Order, Report, Request, Role, send};

/// Does what the socket on stdin asks for.
pub(crate) fn run() -> ! {
    let done = take_stdin().and_then(|mut line| {
        let (role, request, descriptors) = Request::receive(&mut line)?;
        match role {
            Role::Guard => guard(line, &request, descriptors),
            Role::Become => turn_into(line, &request, descriptors),
        }
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
    set_child_subreaper(Some(getpid()))?;
    let (child, report) = match start(request, stdio) {
        Ok(child) => (Some(child), Report::Started(child.as_raw_nonzero().get())),
        Err(error) => (None, Report::Failed(error.raw_os_error().unwrap_or_default())),
    };
    // When nobody listens any more, the line is at its end, which is noticed below.
    let _ = line.write_all(&report.encode());
    let listening = line.try_clone()?;
    let ward = Arc::new(Mutex::new(Ward { line, child, is_ending: child.is_none() }));
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
        if self.is_ending {
            for child in tree::children() {
                let _ = kill_process(child, Signal::KILL);
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

/// Starts the program by way of a process that first ties itself to us ([`turn_into`]).
fn start(request: &Request, stdio: Vec<OwnedFd>) -> io::Result<Pid> {
    let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(stdio) else {
        return Err(rustix::io::Errno::INVAL.into());
    };
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).process_group(0);
    command.stdin(OwnedFd::from(theirs)).stdout(stdout).stderr(stderr);
    let child = command.spawn()?;
    drop(command);
    let guardian = getpid().as_raw_nonzero().get();
    let message = Request { guardian, ..request.clone() }.encode(Role::Become);
    let mut left = &*message;
    let stdins = [stdin.as_fd()];
    let mut descriptors = stdins.as_slice();
    while !left.is_empty() {
        let Ok(sent) = send(&ours, left, descriptors) else { break };
        left = left.get(sent..).unwrap_or_default();
        descriptors = &[];
    }
    drop(stdin);
    // Its end of the socket is closed when the program runs.
    let mut report = [0; Report::LENGTH];
    let number = match ours.read_exact(&mut report) {
        Ok(()) => Report::decode(report),
        Err(_) => None,
    };
    match number {
        Some(Report::Failed(number)) => Err(io::Error::from_raw_os_error(number)),
        _ => Ok(Pid::from_child(&child)),
    }
}

/// Becomes the program. It is killed when its guardian is, which the kernel forgets of a program
/// that takes another user's rights when it starts.
fn turn_into(mut line: UnixStream, request: &Request, stdin: Vec<OwnedFd>) -> io::Result<()> {
    let failed = set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    let failed = failed.and_then(|()| {
        let stdin = stdin.into_iter().next().ok_or(rustix::io::Errno::BADF)?;
        Ok(rustix::stdio::dup2_stdin(stdin)?)
    });
    let mut command = Command::new(&request.program);
    let mut argv = request.argv.iter();
    command.arg0(argv.next().map_or(request.program.as_os_str(), |name| name)).args(argv);
    command.envs(request.env.iter().map(|(name, value)| (name, value)));
    if let Some(cwd) = &request.cwd {
        command.current_dir(cwd);
    }
    let error = match failed {
        Err(error) => error,
        // It went before the kernel knew.
        Ok(()) if getppid() != Pid::from_raw(request.guardian) => exit(1),
        Ok(()) => command.exec(),
    };
    let report = Report::Failed(error.raw_os_error().unwrap_or_default());
    let _ = line.write_all(&report.encode());
    exit(1)
}
