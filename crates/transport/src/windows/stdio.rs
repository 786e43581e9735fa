//! Own stdin and stdout on Windows: handles that are duplicated. What is inherited knows no overlapped
//! reads, so a thread blocks in the system, in a call that can be cancelled. A console is left where it
//! is: the system reads and writes text there, and nobody else's stream can be corrupted.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::os::windows::io::{
    AsHandle, AsRawHandle, FromRawHandle, IntoRawHandle, OwnedHandle, RawHandle,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use windows_sys::Win32::Foundation::{ERROR_BROKEN_PIPE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Console::{
    STD_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetStdHandle,
};
use windows_sys::Win32::System::IO::CancelSynchronousIo;

use super::ended::{has_ended, is_on_disk, waiting};
use super::is_code;
pub(crate) use super::reader::Reader;
use super::security::check;

/// One write hands the system this much at most, so that its progress can be seen.
const WRITE: usize = 16 * 1024;

/// The real stdin.
pub(crate) enum Source {
    Console(io::Stdin),
    Taken(File),
}

/// The real stdout.
pub(crate) struct Sink {
    out: Box<dyn Write + Send>,
    /// A second handle of it, until it is asked for.
    reader: Reader,
}

/// Whether the thread is to stop.
pub(crate) type Stopped = AtomicBool;

/// A thread that blocks in the system. Dropping it tells the thread to stop, and does not wait for that:
/// a call that begins just then goes on, and then the thread is left to itself and costs nothing else.
pub(crate) struct Worker {
    thread: JoinHandle<()>,
    stopped: Arc<Stopped>,
}

impl Worker {
    pub(crate) fn start(
        name: &str,
        run: impl FnOnce(&Stopped) + Send + 'static,
    ) -> io::Result<Self> {
        let stopped = Arc::new(Stopped::default());
        let told = stopped.clone();
        let builder = std::thread::Builder::new().name(name.into());
        Ok(Self { thread: builder.spawn(move || run(&told))?, stopped })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // SAFETY: the handle is open as long as it is not joined.
        unsafe { CancelSynchronousIo(self.thread.as_raw_handle()) };
    }
}

/// How long a read that has begun may take until it is over: here it waits for bytes, so it is not waited for.
pub(crate) const READ: Duration = Duration::ZERO;

impl Source {
    /// Returns false when told to stop. A read waits by itself.
    pub(crate) fn wait(&self, stopped: &Stopped) -> io::Result<bool> {
        Ok(!stopped.load(Ordering::Acquire))
    }

    /// Reads, and waits until there is something to read; `None` when nothing was read and it has to be tried
    /// again.
    pub(crate) fn read(&self, chunk: &mut [u8]) -> io::Result<Option<usize>> {
        let read = match self {
            Self::Console(console) => (&mut &*console).read(chunk),
            Self::Taken(file) => (&mut &*file).read(chunk),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            // An empty write of the other side's.
            Ok(0) if matches!(self, Self::Taken(file) if !has_ended(file.as_handle())) => Ok(None),
            // Nobody writes any more.
            Err(error) if is_code(&error, &[ERROR_BROKEN_PIPE]) => Ok(Some(0)),
            read => read.map(Some),
        }
    }

    /// Returns how many bytes wait to be read. Must not be called while another thread reads.
    pub(crate) fn unread(&self) -> u64 {
        match self {
            Self::Console(_) => 0,
            Self::Taken(file) if is_on_disk(file.as_handle()) => {
                match (file.metadata(), (&mut &*file).stream_position()) {
                    (Ok(metadata), Ok(position)) => metadata.len().saturating_sub(position),
                    _ => 0,
                }
            }
            Self::Taken(file) => waiting(file.as_handle()),
        }
    }
}

impl Sink {
    pub(crate) fn reader(&mut self) -> io::Result<Reader> {
        Ok(std::mem::replace(&mut self.reader, Reader::Unknown))
    }

    /// Writes some of it once there is room; an error when told to stop.
    pub(crate) fn write_piece(&mut self, bytes: &[u8], stopped: &Stopped) -> io::Result<usize> {
        if stopped.load(Ordering::Acquire) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let piece = bytes.get(..WRITE).unwrap_or(bytes);
        self.out.write_all(piece)?;
        self.out.flush()?;
        Ok(piece.len())
    }
}

/// The real ones: from here on the standard handles are the null device and stderr.
pub(crate) fn take() -> io::Result<(Source, Sink)> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    // What was printed before belongs before.
    let _ = io::stdout().flush();
    let source = if stdin.is_terminal() {
        Source::Console(stdin)
    } else {
        let null = OpenOptions::new().read(true).open("NUL")?;
        let is_shared = [stdout.as_raw_handle(), stderr.as_raw_handle()];
        Source::Taken(replace(STD_INPUT_HANDLE, stdin, &is_shared, null.into())?.into())
    };
    let sink = if stdout.is_terminal() {
        Sink { out: Box::new(stdout), reader: Reader::Unknown }
    } else {
        let instead = match stderr.as_handle().try_clone_to_owned() {
            Ok(stderr) => stderr,
            // There is none.
            Err(_) => OpenOptions::new().write(true).open("NUL")?.into(),
        };
        let is_shared = [stderr.as_raw_handle()];
        let taken = replace(STD_OUTPUT_HANDLE, stdout, &is_shared, instead)?;
        Sink { reader: Reader::of(&taken), out: Box::new(File::from(taken)) }
    };
    Ok((source, sink))
}

/// Puts `instead` in the place of a standard handle, and gives the one that was there: a copy that no
/// child inherits. The original is closed, or its other end would never see the end, unless it has
/// another place beside this one.
///
/// Whoever asks the system for the standard handle each time, as `std` does, is not concerned by that. A C
/// runtime keeps the number of the handle that it has found at the start: what a C library of this process
/// prints from here on fails, or goes to what has got the number since. Windows has nothing that would put
/// another handle under the same number.
fn replace(
    place: STD_HANDLE,
    real: impl AsHandle + AsRawHandle,
    others: &[RawHandle],
    instead: OwnedHandle,
) -> io::Result<OwnedHandle> {
    let raw = real.as_raw_handle();
    // A process may be started without it: then it is at its end from the start. What stands for that
    // can be copied all the same, but not read.
    let is_there = !raw.is_null() && raw != INVALID_HANDLE_VALUE;
    let copy = match is_there.then(|| real.as_handle().try_clone_to_owned()) {
        Some(Ok(copy)) => copy,
        _ => null()?,
    };
    // SAFETY: the handle is open, and from here on it is never closed.
    check(unsafe { SetStdHandle(place, instead.into_raw_handle()) })?;
    if is_there && !others.contains(&raw) {
        // SAFETY: it is open, as it could be copied, it was this process's standard handle, which nobody
        // in Rust owns, and this is done once. It stays a number in the tables of C runtimes: see above.
        drop(unsafe { OwnedHandle::from_raw_handle(raw) });
    }
    Ok(copy)
}

fn null() -> io::Result<OwnedHandle> {
    Ok(OpenOptions::new().read(true).write(true).open("NUL")?.into())
}
