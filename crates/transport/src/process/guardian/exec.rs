//! What the standard library has no safe words for: how a guardian starts the program, tied to it, in a
//! group and by no shell, how it makes namespaces, and that it takes no signal.
#![allow(unsafe_code)]

use std::ffi::{CString, OsString, c_char};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::atomic::AtomicPtr;

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, set_parent_process_death_signal, waitpid,
};

use super::wire::Request;

/// `command` will start what is requested, whatever program and arguments it has. The program is
/// killed when this process ends, which the kernel forgets of one that takes another user's rights
/// when it starts.
///
/// The standard library would do the last step by `execvp`, which gives to a shell what the kernel
/// refuses.
pub(super) fn tie(command: &mut Command, request: &Request, signals: Blocked) -> io::Result<()> {
    let variables = request.env.iter().cloned().map(|(mut variable, value)| {
        variable.push("=");
        variable.push(value);
        variable
    });
    let program = c_string(request.program.clone().into_os_string())?;
    let (argv, environment) = (Words::new(request.argv.clone())?, Words::new(variables)?);
    let guardian = getpid();
    let become_program = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(guardian) {
            // It went before the kernel knew.
            return Err(rustix::io::Errno::SRCH.into());
        }
        // SAFETY: the set is one that the system gave. The arrays end with a null pointer, and the
        // others point to strings that live as long as the arrays do, which this closure owns.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &signals.0, null_mut());
            libc::execve(program.as_ptr(), argv.as_ptr(), environment.as_ptr());
        }
        Err(io::Error::last_os_error())
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

/// The signals that this process did not take when it was started.
#[derive(Clone, Copy)]
pub(super) struct Blocked(libc::sigset_t);

/// Nothing but SIGKILL and SIGSTOP reaches this process any more: whoever signals all processes of a
/// service means the programs. Threads that it starts later inherit that.
pub(super) fn take_no_signal() -> Blocked {
    // SAFETY: zeroes are a set of signals; the calls write to the two sets alone, and change nothing
    // but which signals this thread takes.
    unsafe {
        let (mut all, mut before) = std::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        Blocked(before)
    }
}

/// Strings, and an array of pointers to them as the kernel wants it. Nobody writes to them;
/// `AtomicPtr` is a pointer that another thread may have.
struct Words {
    pointers: Vec<AtomicPtr<c_char>>,
    _strings: Vec<CString>,
}

impl Words {
    fn new(words: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        let strings = words.into_iter().map(c_string).collect::<io::Result<Vec<_>>>()?;
        let pointers = strings.iter().map(|string| string.as_ptr().cast_mut());
        let pointers = pointers.chain([null_mut()]).map(AtomicPtr::new).collect();
        Ok(Self { pointers, _strings: strings })
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr().cast()
    }
}

fn c_string(word: OsString) -> io::Result<CString> {
    Ok(CString::new(word.into_vec())?)
}
