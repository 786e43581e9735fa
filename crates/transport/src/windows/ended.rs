//! What can be asked about a handle without reading from it.
#![allow(unsafe_code)]

use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::ptr::null_mut;

use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_DISK, GetFileType};
use windows_sys::Win32::System::Pipes::PeekNamedPipe;

use super::security::check;

/// An empty write of the other side ends a read as well, with nothing: that is no end of the pipe, and
/// the runtime tells them apart no more than `std` does.
pub(super) fn has_ended(pipe: BorrowedHandle<'_>) -> bool {
    let (handle, none) = (pipe.as_raw_handle(), null_mut());
    // SAFETY: the handle is open, and nothing is asked for but whether it can be asked.
    check(unsafe { PeekNamedPipe(handle, null_mut(), 0, none, none, none) }).is_err()
}

/// Returns how many bytes wait in a pipe to be read; 0 for anything else. It blocks while another thread reads
/// from the same handle, if that is a synchronous one.
pub(super) fn waiting(pipe: BorrowedHandle<'_>) -> u64 {
    let (handle, none, mut bytes) = (pipe.as_raw_handle(), null_mut(), 0);
    // SAFETY: the handle is open, and the number of bytes is written to a variable that outlives the call.
    let asked = check(unsafe { PeekNamedPipe(handle, null_mut(), 0, none, &mut bytes, none) });
    if asked.is_ok() { bytes.into() } else { 0 }
}

/// Whether it is a file, which has a length and a position.
pub(super) fn is_on_disk(handle: BorrowedHandle<'_>) -> bool {
    // SAFETY: the handle is open.
    unsafe { GetFileType(handle.as_raw_handle()) == FILE_TYPE_DISK }
}
