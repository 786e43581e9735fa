//! Limits of the process that are too small to work with, found and explained before anything is started:
//! the runtime panics where it gets no thread or descriptor.

use std::fs::File;
use std::sync::Mutex;
use std::thread;

use rustix::process::{Resource, getrlimit};

use crate::report::Failure;

/// The main thread needs less; with this, there is room. A build without optimisation overflows 256 KiB.
const LEAST_STACK: u64 = 512 * 1024;

/// The least number of descriptors that any command needs beside its stdin, stdout and stderr.
const LEAST_FILES: usize = 10;

/// The threads that a command may start beside those of its runtime.
const OWN_THREADS: usize = 4;

/// Enough to start a thread that does nothing.
const SMALL_STACK: usize = 64 * 1024;

/// Checks what even reading the command line needs.
pub(crate) fn check_stack() -> Result<(), Failure> {
    match getrlimit(Resource::Stack).current {
        Some(bytes) if bytes < LEAST_STACK => Err(Failure::Said(format!(
            "the stack is limited to {} KiB, and {} KiB are needed: raise the limit (ulimit -s)",
            bytes / 1024,
            LEAST_STACK / 1024
        ))),
        _ => Ok(()),
    }
}

/// Checks that a runtime can be started, with a thread for each processor or with none.
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
            Err(Failure::Said(format!(
                "only {limit} files may be open, and too few of them are free: raise the limit (ulimit -n)"
            )))
        }
        _ => Ok(()),
    }
}

fn check_threads(count: usize) -> Result<(), Failure> {
    let gate = Mutex::new(());
    let started = thread::scope(|scope| {
        // Until this is dropped, each thread that was started stays.
        let _closed = gate.lock();
        (0..count).try_for_each(|_| {
            let thread = thread::Builder::new().stack_size(SMALL_STACK);
            thread.spawn_scoped(scope, || drop(gate.lock())).map(drop)
        })
    });
    started.map_err(|error| {
        Failure::Said(format!(
            "cannot start {count} threads: {error}. Raise the limit of processes (ulimit -u, or a \
             container's limit of pids), or end other processes of this user"
        ))
    })
}
