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
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, wait, waitid,
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
    // One that somebody has stopped goes on at our end. The thread that started it lives as long as we.
    set_parent_process_death_signal(Some(Signal::CONT))?;
    let (child, report) = match start(request, stdio, signals) {
        Ok(child) => (Some(child), Report::Started(child.as_raw_nonzero().get())),
        Err(error) => (None, Report::Failed(error.raw_os_error().unwrap_or_default())),
    };
    // When nobody listens any more, the line is at its end, which is noticed below.
    let _ = line.write_all(&report.encode());
    let listening = line.try_clone()?;
    let orders = Arc::new(Orders::default());
    orders.end.store(child.is_none(), Relaxed);
    let ward = Ward { line, child, orders: orders.clone(), is_child_killed: false };
    let ward = Arc::new(Mutex::new(ward));
    let listener = ward.clone();
    // Without a thread there is nobody to listen for the end: let it be now.
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(move || listen(listening, &orders, &listener))?;
    loop {
        let ended = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        lock(&ward).settle();
        if matches!(ended, Err(rustix::io::Errno::CHILD)) {
            // There is nobody who could become a child of ours.
            std::thread::park();
        }
    }
}

/// What it was told, and has not done yet.
#[derive(Default)]
struct Orders {
    terminate: AtomicBool,
    /// To be done until there is nobody left.
    end: AtomicBool,
}

/// So many are reaped before orders are looked at again. Children may end as fast as they are reaped,
/// for ever.
const AT_ONCE: usize = 64;

/// What a guardian answers for. Whoever has the lock may signal: nobody is reaped meanwhile.
struct Ward {
    line: UnixStream,
    /// Until it has ended.
    child: Option<Pid>,
    orders: Arc<Orders>,
    is_child_killed: bool,
}

impl Ward {
    /// Does what was ordered, and reaps who has ended. Goes when nobody is left, where that is asked
    /// for.
    fn settle(&mut self) {
        loop {
            if self.orders.terminate.swap(false, Relaxed) {
                tree::terminate();
            }
            let are_more = self.reap();
            if self.orders.end.load(Relaxed) {
                self.kill();
            }
            if !are_more {
                return;
            }
        }
    }

    /// Reaps who has ended; whether there may be more of them.
    fn reap(&mut self) -> bool {
        for _ in 0..AT_ONCE {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if self.child == Some(pid) => {
                    self.child = None;
                    let _ = self.line.write_all(&Report::Ended(status.as_raw()).encode());
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) if self.orders.end.load(Relaxed) => exit(0),
                Err(_) => return false,
            }
        }
        true
    }

    fn kill(&mut self) {
        match self.child {
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

fn listen(mut line: UnixStream, orders: &Orders, ward: &Mutex<Ward>) {
    let mut byte = [0];
    loop {
        match line.read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(1) if Order::decode(byte) == Order::Terminate => {
                orders.terminate.store(true, Relaxed);
                // Whoever has the lock may keep it for long, and then does it.
                while orders.terminate.load(Relaxed) {
                    settle_or(ward, LOOK_AGAIN);
                }
            }
            _ => break,
        }
    }
    orders.end.store(true, Relaxed);
    let mut pause = LOOK_AGAIN;
    loop {
        settle_or(ward, Duration::ZERO);
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK_AT_LEAST);
    }
}

/// Settles, if nobody does already.
fn settle_or(ward: &Mutex<Ward>, pause: Duration) {
    match ward.try_lock() {
        Ok(mut ward) => ward.settle(),
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().settle(),
        Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
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
