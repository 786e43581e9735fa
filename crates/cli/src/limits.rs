//! Checks process limits at start, because the runtime panics if it cannot create a thread or
//! descriptor.

use std::fs::File;
use std::sync::Mutex;
use std::thread;

use rustix::process::{Resource, getrlimit};

use crate::report::Failure;

/// The minimum size of the stack. The main thread needs less, but a debug build overflows 256 KiB.
const LEAST_STACK: u64 = 512 * 1024;

/// The number of free descriptors that every command needs, besides stdin, stdout and stderr.
const LEAST_FILES: usize = 10;

/// The number of threads that a command may start, besides those of its runtime.
const OWN_THREADS: usize = 4;

/// The stack size of a thread that does nothing.
const SMALL_STACK: usize = 64 * 1024;

/// Checks the stack size. Even parsing the command line needs enough stack.
pub(crate) fn check_stack() -> Result<(), Failure> {
    match getrlimit(Resource::Stack).current {
        Some(bytes) if bytes < LEAST_STACK => Err(Failure::other(format!(
            "the stack limit is {} KiB, but tieline needs {} KiB. Raise it with ulimit -s",
            bytes / 1024,
            LEAST_STACK / 1024
        ))),
        _ => Ok(()),
    }
}

/// Checks that a runtime can be started, with one worker thread per processor or without workers.
pub(crate) fn check(has_workers: bool) -> Result<(), Failure> {
    check_files()?;
    let workers = thread::available_parallelism().map_or(1, usize::from);
    check_threads(OWN_THREADS + if has_workers { workers } else { 0 })
}

fn check_files() -> Result<(), Failure> {
    let opened: Result<Vec<_>, _> = (0..LEAST_FILES).map(|_| File::open("/dev/null")).collect();
    match opened {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            let limit = getrlimit(Resource::Nofile).current.unwrap_or_default();
            Err(Failure::other(format!(
                "too few free file descriptors: the limit is {limit}. Raise it with ulimit -n"
            )))
        }
        _ => Ok(()),
    }
}

fn check_threads(count: usize) -> Result<(), Failure> {
    let gate = Mutex::new(());
    let started = thread::scope(|scope| {
        // While this lock is held, each started thread keeps running.
        let _closed = gate.lock();
        (0..count).try_for_each(|_| {
            let thread = thread::Builder::new().stack_size(SMALL_STACK);
            thread.spawn_scoped(scope, || drop(gate.lock())).map(drop)
        })
    });
    started.map_err(|error| {
        Failure::other(format!(
            "cannot start {count} threads: {error}. Raise the process limit (ulimit -u, or the \
             container's pids limit), or end other processes of this user"
        ))
    })
}
