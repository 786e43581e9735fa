//! Whether a pipe from which nothing was read has ended.
#![allow(unsafe_code)]

use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::ptr::null_mut;

use windows_sys::Win32::System::Pipes::PeekNamedPipe;

use super::security::check;

/// An empty write of the other side ends a read as well, with nothing: that is no end of the pipe, and
/// the runtime tells them apart no more than `std` does.
pub(super) fn has_ended(pipe: BorrowedHandle<'_>) -> bool {
    let (handle, none) = (pipe.as_raw_handle(), null_mut());
    // SAFETY: the handle is open, and nothing is asked for but whether it can be asked.
    check(unsafe { PeekNamedPipe(handle, null_mut(), 0, none, none, none) }).is_err()
}
