//! What a process inherits across `exec` and must not work with: put right first in a program's `main`,
//! in a guardian, and in each child before its program starts.
#![allow(unsafe_code)]

use std::ffi::{CString, OsString, c_char, c_int};
use std::io;
use std::mem::zeroed;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr::{null, null_mut};
use std::sync::atomic::AtomicPtr;

/// The first descriptor that is not stdin, stdout or stderr.
const FIRST: u32 = 3;

/// Where the kernel cannot close all descriptors at once, those up to this number are closed.
const MAX_DESCRIPTORS: c_int = 65_536;

/// Resets what the parent of this process may have left behind across `exec`, so that it can be ended by
/// signals and its children's exit statuses are not lost. Call it first in `main`: threads inherit the
/// signal mask of the thread that starts them.
///
/// - No signal is blocked any more.
/// - SIGCHLD, if it was ignored, has its default action. While it is ignored the kernel reaps children by
///   itself, and no child can be started: [`LaunchFailed`](crate::ErrorKind::LaunchFailed).
/// - SIGXFSZ does not kill: a write beyond the largest file allowed (`ulimit -f`) fails instead. Programs
///   that are started get the default action back.
/// - Ignored SIGHUP and SIGINT stay ignored, as `nohup` and a shell's `&` want it; ask with
///   [`is_signal_ignored`] before listening for them.
///
/// Children need none of this: each is started with no signal blocked, SIGCHLD at its default, and no
/// descriptor of ours but its stdin, stdout and stderr.
pub fn reset_inherited() {
    unblock_signals();
    if reaps_itself() {
        set_default(libc::SIGCHLD);
    }
    extern "C" fn nothing(_: c_int) {}
    if action(libc::SIGXFSZ).sa_sigaction == libc::SIG_DFL {
        // A handler, and not "ignored": `exec` takes it away again.
        // SAFETY: zeroes are a valid action without flags, and the handler does nothing.
        unsafe {
            let mut action = zeroed::<libc::sigaction>();
            action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGXFSZ, &raw const action, null_mut());
        }
    }
}

/// Whether the signal of this number is ignored by this process. One that is ignored when a process starts
/// was ignored by its parent on purpose.
pub fn is_signal_ignored(number: i32) -> bool {
    action(number).sa_sigaction == libc::SIG_IGN
}

/// Whether the kernel reaps children of this process by itself: their exit statuses are lost then, and
/// their numbers are free for other processes before we know that they have ended.
pub(super) fn reaps_itself() -> bool {
    let action = action(libc::SIGCHLD);
    action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
}

/// The beginning of a guardian, which has no descriptor to lose but its first three.
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

/// A program, its arguments and its environment, as the kernel wants them.
pub(super) struct Program {
    path: CString,
    argv: Words,
    env: Words,
}

impl Program {
    /// The program at `path`, called by the first of `argv`.
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

    /// The last step of a child: it becomes the program, with signals and descriptors as they should be.
    /// Returns only if that fails. It makes system calls and nothing else.
    ///
    /// The standard library would do this by `execvp`, which gives to a shell what the kernel refuses.
    pub(super) fn replace_child(&self) -> io::Result<()> {
        // A session of its own, and with it a process group: it cannot ask at our terminal, nor be stopped
        // by it, nor put words into it.
        rustix::process::setsid()?;
        reset_in_child();
        // SAFETY: the arrays end with a null pointer, and the others point to strings that live as long
        // as the arrays do, which `self` owns.
        unsafe { libc::execve(self.path.as_ptr(), self.argv.as_ptr(), self.env.as_ptr()) };
        Err(io::Error::last_os_error())
    }

    /// `command` will start this, whatever program, arguments and environment it has.
    pub(super) fn start_by(self, command: &mut Command) {
        // SAFETY: between fork and exec the closure makes system calls and nothing else: it takes no
        // lock, and allocates and frees nothing, as all that it needs is there before.
        unsafe { command.pre_exec(move || self.replace_child()) };
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

/// System calls alone, as there may have been other threads.
fn reset_in_child() {
    unblock_signals();
    set_default(libc::SIGCHLD);
    #[cfg(target_os = "linux")]
    set_internal_signals_to_default();
    // They are closed by `exec`, because until then the standard library has one of its own.
    if close_range(CLOSE_RANGE_CLOEXEC).is_err() {
        each_descriptor(|descriptor| {
            // SAFETY: it changes a flag of a descriptor, if there is one.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        });
    }
}

fn unblock_signals() {
    // SAFETY: the call reads a set that the one before it has made empty.
    unsafe {
        let mut none = zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, null_mut());
    }
}

fn action(signal: c_int) -> libc::sigaction {
    // SAFETY: the call writes to the action alone; for no signal at all it stays zero, the default.
    unsafe {
        let mut action = zeroed::<libc::sigaction>();
        libc::sigaction(signal, null(), &raw mut action);
        action
    }
}

fn set_default(signal: c_int) {
    // SAFETY: no handler is replaced that could be running: there is none, or this is a child's copy.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// The two signals that the C library keeps for itself. Its `posix_spawn` starts programs with them
/// ignored, and its `sigaction` refuses to change that.
#[cfg(target_os = "linux")]
fn set_internal_signals_to_default() {
    const INTERNAL: [c_int; 2] = [32, 33];
    // The kernel's own form of an action, which zeroes make the default on every architecture.
    let default = [0_u64; 8];
    for signal in INTERNAL {
        // SAFETY: the kernel reads an action that is no longer than this, and a set of signals is 8 bytes.
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

/// Closes all descriptors from the first on, or has `exec` close them.
///
/// # Errors
/// The kernel cannot.
#[cfg(target_os = "linux")]
fn close_range(flags: u32) -> io::Result<()> {
    // SAFETY: the callers own none of them, or have them closed by `exec` only.
    match unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn close_range(_: u32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Calls this for every number that a descriptor can have.
fn each_descriptor(call: impl Fn(c_int)) {
    // SAFETY: zeroes are a limit, and the call writes to it alone.
    let limit = unsafe {
        let mut limit = zeroed::<libc::rlimit>();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        c_int::try_from(limit.rlim_cur).unwrap_or(MAX_DESCRIPTORS)
    };
    (FIRST.cast_signed()..limit.min(MAX_DESCRIPTORS)).for_each(call);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tieline_testkit::{helper, test_name};

    #[test]
    fn what_a_parent_left_behind_is_reset() {
        let mut helper = helper::plain(test_name!(), || {
            // SAFETY: this process is the test's alone.
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
            // SAFETY: the call writes to the set alone.
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
    fn a_write_beyond_the_largest_file_fails_and_kills_nothing() {
        let mut helper = helper::plain(test_name!(), || {
            reset_inherited();
            let limit = libc::rlimit { rlim_cur: 10, rlim_max: 10 };
            // SAFETY: this process is the test's alone, and writes no other file.
            unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
            let mut file = tempfile::tempfile().unwrap();
            let error = std::io::Write::write_all(&mut file, &[0; 20]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        });
        helper::succeeds(&mut helper);
    }
}
