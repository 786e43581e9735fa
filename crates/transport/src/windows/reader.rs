//! Detection, without writing, that the other end of a pipe no longer has a reader.
//!
//! The system has no event for that, so the pipe is polled. This needs a thread, because the query
//! blocks while another thread or process writes to the same pipe.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::windows::io::{AsHandle, AsRawHandle, OwnedHandle};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_PIPE_CLOSING_STATE, FILE_PIPE_LOCAL_INFORMATION, FilePipeLocalInformation,
    NtQueryInformationFile,
};
use windows_sys::Win32::System::IO::IO_STATUS_BLOCK;

/// The polling interval.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A watch on the reader of stdout. Its thread is started only when the watch is first polled.
pub(crate) enum Reader {
    Unwatched(OwnedHandle),
    Watched(Watch),
    /// Whether there is a reader is not known: stdout is not a pipe, or this side has closed it.
    Unknown,
}

impl Reader {
    /// Returns a watch on the reader of this process's stdout.
    pub(crate) fn of_stdout() -> Self {
        Self::of(std::io::stdout())
    }

    pub(super) fn of(stdout: impl AsHandle) -> Self {
        stdout.as_handle().try_clone_to_owned().map_or(Self::Unknown, Self::Unwatched)
    }

    /// Polls until the reader has closed its end of the pipe.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        *self = match std::mem::replace(self, Self::Unknown) {
            Self::Unwatched(pipe) => Watch::start(pipe).map_or(Self::Unknown, Self::Watched),
            other => other,
        };
        match self {
            Self::Watched(watch) => watch.poll(cx),
            Self::Unwatched(_) | Self::Unknown => Poll::Pending,
        }
    }
}

/// A thread that polls. Dropping it makes the thread close its handle and stop.
pub(crate) struct Watch(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_gone: bool,
    is_stopped: bool,
    waker: Option<Waker>,
}

impl Watch {
    fn start(pipe: OwnedHandle) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = shared.clone();
        let builder = std::thread::Builder::new().name("tieline-reader".into());
        builder.spawn(move || thread.run(&pipe))?;
        Ok(Self(shared))
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.is_gone {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.lock().is_stopped = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn run(&self, pipe: &OwnedHandle) {
        loop {
            let Some(is_gone) = is_reader_gone(pipe) else { return };
            let mut state = self.lock();
            state.is_gone = is_gone;
            if is_gone {
                if let Some(waker) = state.waker.take() {
                    waker.wake();
                }
            }
            if state.is_gone || state.is_stopped {
                return;
            }
            let waited = self.changed.wait_timeout(state, LOOK_AGAIN);
            if waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0.is_stopped {
                return;
            }
        }
    }
}

/// Returns whether the reader is gone, or `None` if the handle is not a pipe.
fn is_reader_gone(pipe: &OwnedHandle) -> Option<bool> {
    let mut status = IO_STATUS_BLOCK::default();
    let mut pipe_information = FILE_PIPE_LOCAL_INFORMATION::default();
    // SAFETY: the handle is open, and the system writes only to the two structures, and is given the
    // size of the second one.
    let outcome = unsafe {
        NtQueryInformationFile(
            pipe.as_raw_handle(),
            &raw mut status,
            (&raw mut pipe_information).cast::<c_void>(),
            size_of::<FILE_PIPE_LOCAL_INFORMATION>() as u32,
            FilePipeLocalInformation,
        )
    };
    // Negative values are errors; the others are successes.
    (outcome >= 0).then_some(pipe_information.NamedPipeState == FILE_PIPE_CLOSING_STATE)
}
