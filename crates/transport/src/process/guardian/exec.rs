//! System calls that have no safe wrapper in the standard library. They tie a program to its guardian,
//! start it in a cgroup and without a shell, create namespaces, and block signals.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, set_parent_process_death_signal, waitpid,
};

use super::wire::Request;
use crate::anonymous_pipe::anonymous_pipe;
use crate::process::inherited::Program;

/// Makes `command` start the requested program in place of the program with which it was created. The
/// kernel kills the program when this process ends, unless the program gains another user's rights when
/// it starts.
///
/// The standard library would use `execvp` for the last step, which passes files that the kernel refuses
/// to a shell.
pub(super) fn tie(command: &mut Command, request: &Request) -> io::Result<()> {
    let program = Program::new(&request.program, request.argv.clone(), request.env.clone())?;
    let guardian = getpid();
    let become_program = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(guardian) {
            // The guardian ended before the kernel registered the request.
            return Err(rustix::io::Errno::SRCH.into());
        }
        program.replace_child()
    };
    // SAFETY: between fork and exec the closure makes only system calls: it takes no lock and neither
    // allocates nor frees memory, because all data that it needs was created before.
    unsafe { command.pre_exec(become_program) };
    Ok(())
}

/// Starts `command`. If a cgroup is given, the process is in it from its first instruction. This process
/// must have a single thread.
pub(super) fn spawn(mut command: Command, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Pid> {
    let (failure, report) = anonymous_pipe()?;
    let (mut failure, mut report) = (File::from(failure), File::from(report));
    if let Some(child) = fork(Namespaces::Ours, cgroup)? {
        drop((command, report));
        let mut error = [0; 4];
        return match failure.read_exact(&mut error) {
            Ok(()) => {
                let _ = waitpid(Some(child), WaitOptions::empty());
                Err(io::Error::from_raw_os_error(i32::from_le_bytes(error)))
            }
            // End of file: `exec` has closed the other end.
            Err(_) => Ok(child),
        };
    }
    let error = command.exec().raw_os_error().unwrap_or(libc::EIO);
    let _ = report.write_all(&error.to_le_bytes());
    // SAFETY: this ends the forked copy without running destructors or exit handlers of the original
    // process.
    unsafe { libc::_exit(127) }
}

/// Detaches a stopped child that made this thread its tracer (PTRACE_TRACEME). The child continues with
/// the signal that stopped it, as it would without a tracer. Returns false if this thread is not its
/// tracer.
pub(super) fn detach(child: Pid, signal: i32) -> bool {
    // The trap at the start of a program is meant for debuggers and would kill the child.
    let signal = if signal == libc::SIGTRAP { 0 } else { signal };
    let signal = std::ptr::without_provenance_mut::<libc::c_void>(signal.unsigned_abs() as usize);
    // SAFETY: the request takes a signal number in place of a pointer, and accesses no memory of this
    // process.
    unsafe {
        let child = child.as_raw_nonzero().get();
        libc::ptrace(libc::PTRACE_DETACH, child, null_mut::<libc::c_void>(), signal) == 0
    }
}

/// The namespaces of a new process.
#[derive(Clone, Copy)]
pub(super) enum Namespaces {
    /// The namespaces of this process.
    Ours,
    /// A new PID namespace, with the process as its init, and a new mount namespace.
    Plain,
    /// Namespaces as in `Plain`, in a new user namespace.
    InUserNamespace,
}

/// Forks this process. Returns the child's process ID in the parent, and `None` in the child. This
/// process must have a single thread, because the copy would contain the unfinished work of other
/// threads.
pub(super) fn fork(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Option<Pid>> {
    let flags = match namespaces {
        Namespaces::Ours => 0,
        Namespaces::Plain => libc::CLONE_NEWPID | libc::CLONE_NEWNS,
        Namespaces::InUserNamespace => libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUSER,
    };
    // SAFETY: zeroes are valid arguments without options.
    let mut asked = unsafe { std::mem::zeroed::<libc::clone_args>() };
    asked.flags = u64::from(flags.unsigned_abs());
    asked.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    if let Some(cgroup) = cgroup {
        asked.flags |= INTO_CGROUP;
        asked.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    let made = match asked.flags {
        // Some containers allow only this system call. SAFETY: the child has a copy of all memory, and
        // only the calling thread.
        0 => unsafe { libc::fork() }.into(),
        // SAFETY: as above, since no memory is shared. The size is that of the structure.
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

/// Blocks all signals except SIGKILL and SIGSTOP, which cannot be blocked: a signal to all processes of
/// a service is meant for the programs, not for the guardian. Threads that are started later inherit
/// this.
pub(super) fn take_no_signal() {
    // SAFETY: zeroes are a valid signal set; the calls change only that set and this thread's signal mask.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, null_mut());
    }
}
