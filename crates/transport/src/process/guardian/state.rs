//! The guardian process: the program that [`Guardian`](crate::Guardian) starts.
//!
//! It has two threads: the main thread waits for children, including adopted orphans, and the other
//! thread reads orders. The process has no runtime and no copy of the child's stdio, writes no output,
//! and ends when the kernel reports that it has no children left.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, exit};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, kill_process_group,
    set_child_subreaper, set_parent_process_death_signal, wait, waitid,
};

use super::exec::{self, Namespaces};
use super::group::Group;
use super::isolate::{Inside, Side};
use super::keeper::{self, Parent};
use super::wire::{Held, Order, Report, Request};
use super::{isolate, tree};
use crate::guardian::Hold;
use crate::process::inherited;

/// Runs the guardian, which receives its request from the socket on stdin.
pub(crate) fn run() -> ! {
    inherited::reset_in_guardian();
    let done = be_alone().and_then(|()| take_stdin()).and_then(|mut line| {
        let (request, stdio) = Request::receive(&mut line)?;
        guard(line, &request, stdio)
    });
    // The process was not started by a `GuardianHandle`.
    let status = if let Err(error) = done {
        let _ = writeln!(io::stderr(), "this guardian process must be started by tieline: {error}");
        2
    } else {
        0
    };
    exit(status)
}

/// Checks that there are no other threads. This process is going to be forked, and a lock held by
/// another thread would never be released in the copy.
fn be_alone() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count) {
        0 | 1 => Ok(()),
        _ => Err(io::Error::other(
            "there are other threads: Guardian::of_this_program must be called first in main",
        )),
    }
}

/// Takes the socket from stdin, so that no program inherits it, and replaces stdin with the null device.
fn take_stdin() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(socket.into())
}

fn guard(mut line: UnixStream, request: &Request, stdio: Vec<OwnedFd>) -> io::Result<()> {
    exec::take_no_signal();
    // If the guardian was stopped by a signal, it continues when its parent ends. The parent thread runs
    // as long as its process.
    set_parent_process_death_signal(Some(Signal::CONT))?;
    let mut parent = Parent::open();
    let inside = match (request.hold == Hold::Isolated).then(isolate::enter).transpose() {
        Ok(Some(Side::Outside(first))) => {
            drop(stdio);
            keeper::keep(first, line, parent, request.hold)
        }
        Ok(Some(Side::Inside(inside))) => {
            // The keeper outside watches the parent, and this process ends with the keeper.
            parent = None;
            Some(inside)
        }
        Ok(None) => None,
        Err(error) => return line.write_all(&Report::Refused(number(&error)).encode()),
    };
    set_child_subreaper(Some(getpid()))?;
    if request.keeper && inside.is_none() {
        match exec::fork(Namespaces::Ours, None)? {
            Some(guardian) => {
                drop(stdio);
                keeper::keep(guardian, line, parent, request.hold)
            }
            None => parent = Parent::open(),
        }
        set_parent_process_death_signal(Some(Signal::CONT))?;
        set_child_subreaper(Some(getpid()))?;
    }
    // This must not happen earlier: creating namespaces writes to files in this process's /proc
    // directory.
    keeper::refuse_tracers();
    let containment = match request.hold {
        Hold::Isolated => Ok(Containment::Namespace),
        Hold::Descent => Ok(Containment::Descent),
        Hold::Cgroup => Group::make().map(Containment::Cgroup),
        _ => Ok(Group::make().map_or(Containment::Descent, Containment::Cgroup)),
    };
    let mut containment = match containment {
        Ok(containment) => containment,
        Err(error) => return line.write_all(&Report::Refused(number(&error)).encode()),
    };
    let (child, report) = match start(request, stdio, &mut containment) {
        Ok(child) => (Some(child), started(child, &containment, inside)),
        Err(error) => (None, Report::Failed(number(&error))),
    };
    let (listening, own) = (line.try_clone()?, line.try_clone()?);
    let orders = Arc::new(Orders::default());
    orders.end.store(child.is_none(), Relaxed);
    let state = GuardianState {
        line,
        containment,
        child,
        orders: orders.clone(),
        is_child_killed: false,
        killed: 0,
        removals: MAX_REMOVALS,
    };
    let state = Arc::new(Mutex::new(state));
    let (listener, heard) = (state.clone(), orders.clone());
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    // The lock ensures that no other report is sent first.
    let first = lock(&state);
    match thread.spawn(move || listen(listening, parent, &heard, &listener)) {
        // If the report cannot be written, the line has ended, which the listener notices.
        Ok(_) => report.send(&first.line),
        // Without the listener, the end of the line would not be noticed, so the program is ended now.
        Err(error) => {
            Report::Failed(number(&error)).send(&first.line);
            drop(first);
            end_all(&own, &orders, &state);
        }
    }
    drop(first);
    loop {
        let ended = waitid(WaitId::All, CHANGES | WaitIdOptions::NOWAIT);
        lock(&state).settle(Thread::Main);
        if matches!(ended, Err(rustix::io::Errno::CHILD)) {
            // No process is left that could become a child of this one.
            std::thread::park();
        }
    }
}

/// The maximum number of unread bytes, as the kernel counts them: several hundred for each report. The
/// buffer is larger.
const MAX_UNREAD: usize = 64 * 1024;

/// The state changes of children for which the guardian waits.
const CHANGES: WaitIdOptions =
    WaitIdOptions::EXITED.union(WaitIdOptions::STOPPED).union(WaitIdOptions::CONTINUED);

/// Orders that have not been carried out yet.
#[derive(Default)]
struct Orders {
    terminate: AtomicBool,
    /// Kill processes until none is left.
    end: AtomicBool,
}

/// How many children are reaped before orders are checked again. The limit is needed because new
/// children may end as fast as they are reaped.
const AT_ONCE: usize = 64;

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or_default()
}

fn started(child: Pid, containment: &Containment, inside: Option<Inside>) -> Report {
    let held = match (containment, &inside) {
        (Containment::Descent, _) => Held::Descent,
        (Containment::Cgroup(_), _) => Held::Cgroup,
        (Containment::Namespace, Some(inside)) if inside.has_proc => Held::Isolated,
        (Containment::Namespace, _) => Held::IsolatedWithoutProc,
    };
    let outside = inside.and_then(Inside::child_outside).unwrap_or(child);
    Report::Started(held, outside.as_raw_nonzero().get())
}

/// The threads of a guardian.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// The thread that started the program, and the tracer of children that requested one.
    Main,
    Other,
}

/// Returns true if the next child that a wait would return has stopped rather than ended.
fn is_trapped() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let next = waitid(WaitId::All, options).ok().flatten();
    next.is_some_and(|status| status.trapped() || status.stopped())
}

/// How descendants are contained, besides being adopted when they lose their parent.
enum Containment {
    Descent,
    Cgroup(Group),
    /// This process is the init of a PID namespace.
    Namespace,
}

/// Signals all other processes in the PID namespace of which this process is the init. Does nothing if
/// this process is not the init of a namespace, because it would signal every process on the machine.
fn signal_namespace(signal: Signal) {
    if getpid() == Pid::INIT {
        let _ = kill_process_group(Pid::INIT, signal);
    }
}

/// How many times to try to remove a cgroup that contains none of our descendants.
const MAX_REMOVALS: u32 = 50;

/// The state of a guardian. The thread that holds its lock may send signals, because nothing is reaped
/// in the meantime.
struct GuardianState {
    line: UnixStream,
    containment: Containment,
    /// The child, until it has ended.
    child: Option<Pid>,
    orders: Arc<Orders>,
    is_child_killed: bool,
    /// How many other processes were killed.
    killed: i32,
    removals: u32,
}

impl GuardianState {
    /// Carries out orders and reaps ended children. Exits when no process is left, if that was ordered.
    fn settle(&mut self, thread: Thread) {
        loop {
            if self.orders.terminate.swap(false, Relaxed) {
                self.terminate();
            }
            let are_more = self.reap(thread);
            if self.orders.end.load(Relaxed) {
                self.kill();
            }
            if !are_more {
                return;
            }
        }
    }

    /// Reaps ended children. Returns true if there may be more.
    fn reap(&mut self, thread: Thread) -> bool {
        for _ in 0..AT_ONCE {
            if thread == Thread::Other && is_trapped() {
                // Only the main thread can detach a traced child. It has been woken for that.
                return false;
            }
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED) {
                // The child made this process its tracer, or it was stopped; it has not ended.
                Ok(Some((pid, status))) if status.stopped() => {
                    let signal = status.stopping_signal().unwrap_or_default();
                    if !exec::detach(pid, signal) && self.child == Some(pid) {
                        self.tell_stopped(Some(signal));
                    }
                }
                Ok(Some((pid, status))) if status.continued() => {
                    if self.child == Some(pid) {
                        self.tell_stopped(None);
                    }
                }
                Ok(Some((pid, status))) if self.child == Some(pid) => {
                    self.child = None;
                    Report::Ended(status.as_raw()).send(&self.line);
                }
                Ok(Some((_, status))) => {
                    let is_killed = status.terminating_signal() == Some(Signal::KILL.as_raw());
                    self.killed += i32::from(is_killed && self.orders.end.load(Relaxed));
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => {
                    if self.orders.end.load(Relaxed) {
                        self.leave();
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Reports that the child was stopped or continued. Frequent stops must not fill the buffer that the
    /// final reports need.
    fn tell_stopped(&self, by: Option<i32>) {
        let unread = crate::readiness::unsent(&self.line).unwrap_or_default();
        if unread < MAX_UNREAD && !self.orders.end.load(Relaxed) {
            by.map_or(Report::Continued, Report::Stopped).send(&self.line);
        }
    }

    fn kill(&mut self) {
        match &self.containment {
            Containment::Descent => {}
            Containment::Cgroup(group) => group.kill(),
            Containment::Namespace => return signal_namespace(Signal::KILL),
        }
        match self.child {
            // Usually there are no other processes, so they are not searched for yet. This function is
            // called again when the child has ended, or if it takes long to end.
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

    /// Sends SIGTERM and SIGCONT to all processes.
    fn terminate(&self) {
        match self.containment {
            Containment::Namespace => tree::ENDING.into_iter().for_each(signal_namespace),
            _ => tree::terminate(),
        }
    }

    /// Exits, because no process is left that could become a child of this one.
    fn leave(&mut self) {
        let is_removed = match &self.containment {
            Containment::Cgroup(group) => group.remove(),
            _ => true,
        };
        if !is_removed {
            // The cgroup contains a process that is not a descendant and that the program has put there.
            self.removals = self.removals.saturating_sub(1);
            if self.removals > 0 {
                return;
            }
            exit(1);
        }
        Report::Gone(self.killed).send(&self.line);
        exit(0)
    }
}

/// The first interval between searches for children. Processes start and end while the kernel lists
/// them, so a new orphan may be missed. The interval grows, because some processes take long to end.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const LOOK_AT_LEAST: Duration = Duration::from_millis(200);

fn listen(
    mut line: UnixStream,
    parent: Option<Parent>,
    orders: &Orders,
    state: &Mutex<GuardianState>,
) {
    let mut byte = [0];
    // When the parent has ended, another process may still hold the other end of the line.
    while parent.as_ref().is_none_or(|parent| parent.lets_read(&line)) {
        match line.read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(1) if Order::decode(byte) == Order::Terminate => {
                orders.terminate.store(true, Relaxed);
                // The other thread may hold the lock for a long time. In that case, it carries out the
                // order.
                while orders.terminate.load(Relaxed) {
                    settle_or(state, LOOK_AGAIN);
                }
            }
            _ => break,
        }
    }
    end_all(&line, orders, state)
}

/// Kills children until the kernel reports that none is left, which ends this process.
fn end_all(line: &UnixStream, orders: &Orders, state: &Mutex<GuardianState>) -> ! {
    orders.end.store(true, Relaxed);
    let mut pause = LOOK_AGAIN;
    loop {
        settle_or(state, Duration::ZERO);
        // This is sent even while the other thread is busy, because a silent guardian is killed.
        Report::Ending.send(line);
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK_AT_LEAST);
    }
}

/// Calls `settle`, or sleeps for `pause` if the other thread holds the lock.
fn settle_or(state: &Mutex<GuardianState>, pause: Duration) {
    match state.try_lock() {
        Ok(mut state) => state.settle(Thread::Other),
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().settle(Thread::Other),
        Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
    }
}

fn lock(state: &Mutex<GuardianState>) -> MutexGuard<'_, GuardianState> {
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Starts the program. With `Hold::Auto`, starts it without a cgroup if it cannot be started in one.
fn start(request: &Request, stdio: Vec<OwnedFd>, containment: &mut Containment) -> io::Result<Pid> {
    let stdio = <[OwnedFd; 3]>::try_from(stdio).map_err(|_| rustix::io::Errno::BADF)?;
    if let Containment::Cgroup(group) = containment {
        let copies = stdio.each_ref().map(OwnedFd::try_clone);
        let [stdin, stdout, stderr] = copies;
        let command = command(request, [stdin?, stdout?, stderr?])?;
        match exec::spawn(command, Some(group.directory())) {
            Err(_) if request.hold == Hold::Auto => {
                group.remove();
                *containment = Containment::Descent;
            }
            started => return started,
        }
    }
    exec::spawn(command(request, stdio)?, None)
}

/// Builds the command. It owns our copies of the child's stdio.
fn command(request: &Request, [stdin, stdout, stderr]: [OwnedFd; 3]) -> io::Result<Command> {
    let mut command = Command::new(&request.program);
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    if let Some(cwd) = &request.cwd {
        command.current_dir(cwd);
    }
    exec::tie(&mut command, request)?;
    Ok(command)
}
