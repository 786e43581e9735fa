//! What the standard library has no safe words for: how a guardian starts the program, tied to it, in a
//! group and by no shell, how it makes namespaces, and that it takes no signal.
#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, set_parent_process_death_signal, waitpid,
};

use super::wire::Request;
use crate::process::inherited::Program;

/// `command` will start what is requested, whatever program and arguments it has. The program is
/// killed when this process ends, which the kernel forgets of one that takes another user's rights
/// when it starts.
///
/// The standard library would do the last step by `execvp`, which gives to a shell what the kernel
/// refuses.
pub(super) fn tie(command: &mut Command, request: &Request) -> io::Result<()> {
    let program = Program::new(&request.program, request.argv.clone(), request.env.clone())?;
    let guardian = getpid();
    let become_program = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(guardian) {
            // It went before the kernel knew.
            return Err(rustix::io::Errno::SRCH.into());
        }
        program.replace_child()
    };
    // SAFETY: between fork and exec the closure makes system calls and nothing else: it takes no
    // lock, and allocates and frees nothing, as all that it needs is there before.
    unsafe { command.pre_exec(become_program) };
    Ok(())
}

/// Starts `command`, in that cgroup from its first instruction. It is for a process with one thread.
pub(super) fn spawn(mut command: Command, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Pid> {
    let (mut failure, mut report) = io::pipe()?;
    if let Some(child) = fork(Namespaces::Ours, cgroup)? {
        drop((command, report));
        let mut error = [0; 4];
        return match failure.read_exact(&mut error) {
            Ok(()) => {
                let _ = waitpid(Some(child), WaitOptions::empty());
                Err(io::Error::from_raw_os_error(i32::from_le_bytes(error)))
            }
            // The program has taken the other end's place.
            Err(_) => Ok(child),
        };
    }
    let error = command.exec().raw_os_error().unwrap_or(libc::EIO);
    let _ = report.write_all(&error.to_le_bytes());
    // SAFETY: it ends this process, which is the other's copy, and does nothing that the other still
    // has to do.
    unsafe { libc::_exit(127) }
}

/// Lets go of a child that has made this thread its tracer (PTRACE_TRACEME) and has stopped: it goes on
/// with the signal that stopped it, as it would without a tracer. False when this thread is not its tracer.
pub(super) fn detach(child: Pid, signal: i32) -> bool {
    // The trap at the start of a program is meant for debuggers and kills everything else.
    let signal = if signal == libc::SIGTRAP { 0 } else { signal };
    let signal = std::ptr::without_provenance_mut::<libc::c_void>(signal.unsigned_abs() as usize);
    // SAFETY: the request takes a signal in place of a pointer, and touches no memory of ours.
    unsafe {
        let child = child.as_raw_nonzero().get();
        libc::ptrace(libc::PTRACE_DETACH, child, null_mut::<libc::c_void>(), signal) == 0
    }
}

/// In which namespaces a process is started.
#[derive(Clone, Copy)]
pub(super) enum Namespaces {
    /// In ours.
    Ours,
    /// As the first in a PID namespace, with a mount namespace.
    Plain,
    /// The same, in a user namespace of its own.
    InUserNamespace,
}

/// Goes on as two processes: `None` in the one that is new. It is for a process with one thread: what
/// others were doing is not finished in the copy.
pub(super) fn fork(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Option<Pid>> {
    let flags = match namespaces {
        Namespaces::Ours => 0,
        Namespaces::Plain => libc::CLONE_NEWPID | libc::CLONE_NEWNS,
        Namespaces::InUserNamespace => libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUSER,
    };
    // SAFETY: zeroes ask for nothing.
    let mut asked = unsafe { std::mem::zeroed::<libc::clone_args>() };
    asked.flags = u64::from(flags.unsigned_abs());
    asked.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    if let Some(cgroup) = cgroup {
        asked.flags |= INTO_CGROUP;
        asked.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    let made = match asked.flags {
        // Some containers know no other way.
        // SAFETY: the new process has a copy of all memory and the one thread that calls this.
        0 => unsafe { libc::fork() }.into(),
        // SAFETY: the same, as no memory is asked to be shared. The structure is one of this size.
        _ => unsafe { libc::syscall(libc::SYS_clone3, &raw mut asked, size_of_val(&asked)) },
    };
    match i32::try_from(made) {
        Ok(0) => Ok(None),
        Ok(child) if child > 0 => Ok(Pid::from_raw(child)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `CLONE_INTO_CGROUP`.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Nothing but SIGKILL and SIGSTOP reaches this process any more: whoever signals all processes of a
/// service means the programs. Threads that it starts later inherit that.
pub(super) fn take_no_signal() {
    // SAFETY: zeroes are a set of signals; the calls change nothing but it and which signals this
    // thread takes.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, null_mut());
    }
}
