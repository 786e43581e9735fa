//! Stdin and stdout on Windows. The handles are duplicated. Inherited handles do not support overlapped
//! reads, so a thread blocks in a system call that can be canceled. A console is not replaced, because
//! the system reads and writes text there, so that no stream can be corrupted.
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

/// The maximum size of one write. It is small so that the progress of a slow reader is visible.
const WRITE: usize = 16 * 1024;

/// The original stdin.
pub(crate) enum Source {
    Console(io::Stdin),
    Taken(File),
}

/// The original stdout.
pub(crate) struct Sink {
    out: Box<dyn Write + Send>,
    /// A watch with a second handle of stdout, until `Sink::reader` takes it.
    reader: Reader,
}

/// A flag that is set when the thread must stop.
pub(crate) type Stopped = AtomicBool;

/// A thread that blocks in system calls. Dropping it stops the thread without waiting for the thread's
/// end. A call that begins at the same moment is not canceled; in that case, the blocked thread remains,
/// which has no other cost.
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
        // SAFETY: the handle stays open because the thread is not joined.
        unsafe { CancelSynchronousIo(self.thread.as_raw_handle()) };
    }
}

/// How long to wait for a read that has begun, which is not at all, because a read blocks until there
/// are bytes.
pub(crate) const READ: Duration = Duration::ZERO;

impl Source {
    /// Returns false when stopped. This does not wait, because reads block.
    pub(crate) fn wait(&self, stopped: &Stopped) -> io::Result<bool> {
        Ok(!stopped.load(Ordering::Acquire))
    }

    /// Blocks until there are bytes, and reads them. Returns `None` if nothing was read and the caller
    /// must try again.
    pub(crate) fn read(&self, chunk: &mut [u8]) -> io::Result<Option<usize>> {
        let read = match self {
            Self::Console(console) => (&mut &*console).read(chunk),
            Self::Taken(file) => (&mut &*file).read(chunk),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            // This was an empty write by the other side.
            Ok(0) if matches!(self, Self::Taken(file) if !has_ended(file.as_handle())) => Ok(None),
            // No process has the other end open.
            Err(error) if is_code(&error, &[ERROR_BROKEN_PIPE]) => Ok(Some(0)),
            read => read.map(Some),
        }
    }

    /// Returns how many bytes can be read. Must not be called while another thread reads.
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

    /// Waits for room and writes some bytes. Fails when stopped.
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

/// Takes the original handles. Afterwards, the standard handles are the null device and stderr.
pub(crate) fn take() -> io::Result<(Source, Sink)> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    // Output that was printed earlier must be written first.
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
            // There is no stderr.
            Err(_) => OpenOptions::new().write(true).open("NUL")?.into(),
        };
        let is_shared = [stderr.as_raw_handle()];
        let taken = replace(STD_OUTPUT_HANDLE, stdout, &is_shared, instead)?;
        Sink { reader: Reader::of(&taken), out: Box::new(File::from(taken)) }
    };
    Ok((source, sink))
}

/// Replaces a standard handle with `instead`, and returns a copy of the original that children do not
/// inherit. The original is closed, so that the other side can see the end, unless it is also another
/// standard handle.
///
/// Code that asks the system for the standard handle each time, as `std` does, is not affected. A C
/// runtime keeps the handle's number from the start of the process: output that a C library prints
/// afterwards fails, or goes to a new handle with that number. Windows cannot replace a handle under the
/// same number.
fn replace(
    place: STD_HANDLE,
    real: impl AsHandle + AsRawHandle,
    others: &[RawHandle],
    instead: OwnedHandle,
) -> io::Result<OwnedHandle> {
    let raw = real.as_raw_handle();
    // A process may be started without this handle. Its input is then empty. The placeholder for the
    // handle can be duplicated but not read.
    let is_there = !raw.is_null() && raw != INVALID_HANDLE_VALUE;
    let copy = match is_there.then(|| real.as_handle().try_clone_to_owned()) {
        Some(Ok(copy)) => copy,
        _ => null()?,
    };
    // SAFETY: the handle is open, and from here on it is never closed.
    check(unsafe { SetStdHandle(place, instead.into_raw_handle()) })?;
    if is_there && !others.contains(&raw) {
        // SAFETY: the handle is open, because it could be duplicated; it was this process's standard
        // handle, which no Rust value owns; and it is closed only once. C runtimes keep its number in
        // their tables: see above.
        drop(unsafe { OwnedHandle::from_raw_handle(raw) });
    }
    Ok(copy)
}

fn null() -> io::Result<OwnedHandle> {
    Ok(OpenOptions::new().read(true).write(true).open("NUL")?.into())
}
