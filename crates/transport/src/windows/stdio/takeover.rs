//! Moving the real stdin and stdout aside, once in the life of a process.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, IntoRawHandle, OwnedHandle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Console::{
    STD_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetStdHandle,
};
use windows_sys::Win32::System::IO::CancelSynchronousIo;

use crate::windows::security::check;

pub(super) type Source = Box<dyn Read + Send>;
pub(super) type Sink = Box<dyn Write + Send>;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The real ones.
pub(super) fn take() -> io::Result<(Source, Sink)> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    // What was printed before belongs before.
    let _ = io::stdout().flush();
    let source: Source = if stdin.is_terminal() {
        Box::new(stdin)
    } else {
        let null = OpenOptions::new().read(true).open("NUL")?;
        let is_shared = [stdout.as_raw_handle(), stderr.as_raw_handle()];
        let taken = replace(STD_INPUT_HANDLE, stdin, &is_shared, null.into())?;
        Box::new(File::from(taken))
    };
    let sink: Sink = if stdout.is_terminal() {
        Box::new(stdout)
    } else {
        let instead = match stderr.as_handle().try_clone_to_owned() {
            Ok(stderr) => stderr,
            // There is none.
            Err(_) => OpenOptions::new().write(true).open("NUL")?.into(),
        };
        let is_shared = [stderr.as_raw_handle()];
        let taken = replace(STD_OUTPUT_HANDLE, stdout, &is_shared, instead)?;
        Box::new(File::from(taken))
    };
    Ok((source, sink))
}

/// Puts `instead` in the place of a standard handle, and gives the one that was there: a copy that no
/// child inherits. The original is closed, or its other end would never see the end, unless it has
/// another place beside this one.
fn replace(
    place: STD_HANDLE,
    real: impl AsHandle + AsRawHandle,
    others: &[std::os::windows::io::RawHandle],
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
        // SAFETY: it was this process's standard handle, which is now another one, and this is done
        // once; whoever asks for the standard handle from here on does not find it.
        drop(unsafe { OwnedHandle::from_raw_handle(raw) });
    }
    Ok(copy)
}

fn null() -> io::Result<OwnedHandle> {
    Ok(OpenOptions::new().read(true).write(true).open("NUL")?.into())
}

/// Makes a read or a write that blocks in `thread` fail. One that begins just then goes on: the thread
/// is left to itself, and costs nothing but itself.
pub(super) fn interrupt(thread: &JoinHandle<()>) {
    // SAFETY: the handle is open as long as it is not joined.
    unsafe { CancelSynchronousIo(thread.as_raw_handle()) };
}
