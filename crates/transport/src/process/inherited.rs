//! Resets the state that a process inherits across `exec` but cannot work with. This is done first in a
//! program's `main`, in a guardian, and in each child before its program starts.
#![allow(unsafe_code)]

use std::ffi::{CString, OsString, c_char, c_int};
use std::io;
use std::mem::zeroed;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};

/// The first descriptor that is not stdin, stdout or stderr.
const FIRST: c_int = 3;

/// The number of descriptors that are closed one by one if the kernel cannot close all of them in one
/// call.
const MAX_DESCRIPTORS: c_int = 65_536;

/// Resets the signal state that this process may have inherited from its parent across `exec`, so that
/// signals can end it and the exit statuses of its children are not lost. Call it first in `main`,
/// because threads inherit the signal mask of the thread that starts them.
///
/// - All signals are unblocked.
/// - SIGCHLD is reset to its default action if it was ignored. While it is ignored, the kernel reaps
///   children itself, and no child can be started: [`LaunchFailed`](crate::ErrorKind::LaunchFailed).
/// - SIGXFSZ no longer kills this process: a write beyond the file size limit (`ulimit -f`) fails
///   instead. Programs that this process starts have the default action.
/// - Ignored SIGHUP and SIGINT stay ignored, as `nohup` and a shell's `&` expect; check
///   [`is_signal_ignored`] before listening for them.
///
/// Children need no such call: each is started with no blocked signals, the default action for SIGCHLD,
/// and no inherited descriptors except its stdin, stdout and stderr.
pub fn reset_inherited() {
    unblock_signals();
    if reaps_itself() {
        set_default(libc::SIGCHLD);
    }
    extern "C" fn nothing(_: c_int) {}
    if action(libc::SIGXFSZ).sa_sigaction == libc::SIG_DFL {
        // Install a handler instead of ignoring the signal, because `exec` resets handlers. SAFETY:
        // zeroes are a valid action without flags, and the handler does nothing.
        unsafe {
            let mut action = zeroed::<libc::sigaction>();
            action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGXFSZ, &raw const action, null_mut());
        }
    }
}

/// Returns true if this process ignores the signal with this number. If a signal is ignored when a
/// process starts, the parent ignored it on purpose.
pub fn is_signal_ignored(number: i32) -> bool {
    action(number).sa_sigaction == libc::SIG_IGN
}

static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Returns whether this process was started with its stdout closed (`>&-`). Output to stdout is then
/// lost without an error: the standard library opens the null device in its place. Always false on
/// systems other than Linux.
pub fn was_started_without_stdout() -> bool {
    STDOUT_WAS_CLOSED.load(Relaxed)
}

/// Checks whether stdout is closed. This runs before the standard library opens the null device for
/// closed descriptors, because a closed stdout cannot be detected afterwards.
#[cfg(target_os = "linux")]
extern "C" fn look_at_stdout() {
    // SAFETY: this asks for the flags of a number, which need not be an open descriptor.
    let is_closed = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } == -1;
    STDOUT_WAS_CLOSED.store(is_closed, Relaxed);
}

// SAFETY: functions in this section are called once, before `main`. This one makes one system call and
// stores to a static; it uses no part of the standard library that has to be initialized.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = look_at_stdout;

/// Returns true if the kernel itself reaps this process's children. In that case, their exit statuses
/// are lost, and their process IDs may be reused before this process learns that they have ended.
pub(super) fn reaps_itself() -> bool {
    let action = action(libc::SIGCHLD);
    action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
}

/// Resets the state of a guardian, which owns no descriptors but the first three.
#[cfg(target_os = "linux")]
pub(super) fn reset_in_guardian() {
    if reaps_itself() {
        set_default(libc::SIGCHLD);
    }
    if close_range(0).is_err() {
        each_descriptor(|descriptor| {
            // SAFETY: nothing in this process owns a descriptor yet.
            unsafe { libc::close(descriptor) };
        });
    }
}

/// A program with its arguments and environment, in the form that the kernel takes.
pub(super) struct Program {
    path: CString,
    argv: Words,
    env: Words,
}

impl Program {
    /// Creates a program from its path, its arguments including `argv[0]`, and its environment.
    pub(super) fn new(
        path: &Path,
        argv: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> io::Result<Self> {
        let variables = env.into_iter().map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            variable
        });
        let path = c_string(path.as_os_str().to_owned())?;
        Ok(Self { path, argv: Words::new(argv)?, env: Words::new(variables)? })
    }

    /// Replaces the child process with the program, after resetting signals and descriptors. This is the
    /// last step of a child. Returns only if it fails. Makes only system calls.
    ///
    /// The standard library would use `execvp`, which passes files that the kernel refuses to a shell.
    pub(super) fn replace_child(&self) -> io::Result<()> {
        // The new session and its process group separate the child from our terminal: it cannot read
        // from the terminal, be stopped by it, or inject input into it.
        rustix::process::setsid()?;
        reset_in_child();
        // SAFETY: the arrays end with a null pointer, and the other pointers are to strings that live as
        // long as the arrays, which `self` owns.
        unsafe { libc::execve(self.path.as_ptr(), self.argv.as_ptr(), self.env.as_ptr()) };
        Err(io::Error::last_os_error())
    }

    /// Makes `command` start this program in place of the program, arguments and environment with which
    /// it was created.
    pub(super) fn start_by(self, command: &mut Command) {
        // SAFETY: between fork and exec the closure makes only system calls: it takes no lock and
        // neither allocates nor frees memory, because all data that it needs was created before.
        unsafe { command.pre_exec(move || self.replace_child()) };
    }
}

/// Strings, and an array of pointers to them in the form that the kernel takes. The strings are never
/// written to; `AtomicPtr` serves as a raw pointer that is `Send`.
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

/// Resets the state of a forked child. Makes only system calls, because the parent may have had other
/// threads.
fn reset_in_child() {
    unblock_signals();
    set_default(libc::SIGCHLD);
    #[cfg(target_os = "linux")]
    set_internal_signals_to_default();
    // The descriptors are closed by `exec` and not here, because the standard library needs one of its
    // own until then.
    if close_range(CLOSE_RANGE_CLOEXEC).is_err() {
        each_descriptor(|descriptor| {
            // SAFETY: the call only sets a flag of a descriptor, if it is open.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        });
    }
}

fn unblock_signals() {
    // SAFETY: the call reads a set that was just initialized as empty.
    unsafe {
        let mut none = zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, null_mut());
    }
}

fn action(signal: c_int) -> libc::sigaction {
    // SAFETY: the call writes only to the action; for an invalid signal it stays zero, the default.
    unsafe {
        let mut action = zeroed::<libc::sigaction>();
        libc::sigaction(signal, null(), &raw mut action);
        action
    }
}

fn set_default(signal: c_int) {
    // SAFETY: no handler that could be running is replaced: there is none, or this is a child's copy.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Resets the two signals that the C library reserves. Its `posix_spawn` starts programs with these
/// signals ignored, and its `sigaction` refuses to change that.
#[cfg(target_os = "linux")]
fn set_internal_signals_to_default() {
    const INTERNAL: [c_int; 2] = [32, 33];
    // The kernel's own form of an action; zeroes are the default action on every architecture.
    let default = [0_u64; 8];
    for signal in INTERNAL {
        // SAFETY: the kernel reads an action that is no longer than this array, and a signal set is 8
        // bytes.
        unsafe {
            let none = null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, size_of::<u64>());
        }
    }
}

#[cfg(target_os = "linux")]
const CLOSE_RANGE_CLOEXEC: u32 = libc::CLOSE_RANGE_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const CLOSE_RANGE_CLOEXEC: u32 = 0;

/// Closes all descriptors starting at `FIRST`, or marks them as close-on-exec.
///
/// # Errors
/// The kernel does not support it.
#[cfg(target_os = "linux")]
fn close_range(flags: u32) -> io::Result<()> {
    // SAFETY: the callers own none of the descriptors, or only set close-on-exec.
    match unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn close_range(_: u32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Calls `call` with every possible descriptor number.
fn each_descriptor(call: impl Fn(c_int)) {
    // SAFETY: zeroes are a valid limit, and the call writes only to it.
    let limit = unsafe {
        let mut limit = zeroed::<libc::rlimit>();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        c_int::try_from(limit.rlim_cur).unwrap_or(MAX_DESCRIPTORS)
    };
    (FIRST..limit.min(MAX_DESCRIPTORS)).for_each(call);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tieline_testkit::{helper, test_name};

    #[test]
    fn inherited_signal_state_is_reset() {
        let mut helper = helper::plain(test_name!(), || {
            // SAFETY: this process runs only this test.
            unsafe {
                libc::signal(libc::SIGCHLD, libc::SIG_IGN);
                libc::signal(libc::SIGINT, libc::SIG_IGN);
                let mut all = zeroed::<libc::sigset_t>();
                libc::sigfillset(&raw mut all);
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, null_mut());
            }
            assert!(reaps_itself() && is_signal_ignored(libc::SIGCHLD));
            reset_inherited();
            assert!(!reaps_itself() && !is_signal_ignored(libc::SIGCHLD));
            assert!(is_signal_ignored(libc::SIGINT), "it was ignored on purpose");
            assert!(!is_signal_ignored(libc::SIGHUP) && !is_signal_ignored(0));
            // SAFETY: the call writes only to the set.
            let is_blocked = unsafe {
                let mut now = zeroed::<libc::sigset_t>();
                libc::pthread_sigmask(libc::SIG_BLOCK, null(), &raw mut now);
                libc::sigismember(&raw const now, libc::SIGTERM) == 1
            };
            assert!(!is_blocked);
        });
        helper::succeeds(&mut helper);
    }

    #[test]
    fn write_beyond_the_file_size_limit_fails_without_killing() {
        let mut helper = helper::plain(test_name!(), || {
            reset_inherited();
            let limit = libc::rlimit { rlim_cur: 10, rlim_max: 10 };
            // SAFETY: this process runs only this test, and writes no other file.
            unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
            let mut file = tempfile::tempfile().unwrap();
            let error = std::io::Write::write_all(&mut file, &[0; 20]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        });
        helper::succeeds(&mut helper);
    }
}
