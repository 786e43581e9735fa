//! Queries about a handle that do not read from it.
#![allow(unsafe_code)]

use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::ptr::null_mut;

use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_DISK, GetFileType};
use windows_sys::Win32::System::Pipes::PeekNamedPipe;

use super::security::check;

/// Returns true if a pipe has ended. Call it after a read that returned no bytes: an empty write by the
/// other side has the same effect, and neither tokio nor `std` distinguishes the two.
pub(super) fn has_ended(pipe: BorrowedHandle<'_>) -> bool {
    let (handle, none) = (pipe.as_raw_handle(), null_mut());
    // SAFETY: the handle is open, and no data is requested.
    check(unsafe { PeekNamedPipe(handle, null_mut(), 0, none, none, none) }).is_err()
}

/// Returns how many bytes can be read from a pipe, or 0 if the handle is not a pipe. If the handle is
/// synchronous, this blocks while another thread reads from it.
pub(super) fn waiting(pipe: BorrowedHandle<'_>) -> u64 {
    let (handle, none, mut bytes) = (pipe.as_raw_handle(), null_mut(), 0);
    // SAFETY: the handle is open, and the number of bytes is written to a variable that outlives the call.
    let asked = check(unsafe { PeekNamedPipe(handle, null_mut(), 0, none, &mut bytes, none) });
    if asked.is_ok() { bytes.into() } else { 0 }
}

/// Returns true if the handle is a file, which has a length and a position.
pub(super) fn is_on_disk(handle: BorrowedHandle<'_>) -> bool {
    // SAFETY: the handle is open.
    unsafe { GetFileType(handle.as_raw_handle()) == FILE_TYPE_DISK }
}
