//! Waiting for the end of a process with the system's thread pool, without a dedicated thread.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::future::Future;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, OwnedHandle};
use std::os::windows::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr::null_mut;

use tokio::sync::oneshot;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{
    GetExitCodeProcess, INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx,
    WT_EXECUTEINWAITTHREAD, WT_EXECUTEONLYONCE, WaitForSingleObject,
};

use crate::windows::security::check;

/// Waits until the process has ended, and returns its exit status.
pub(super) fn ended(
    process: OwnedHandle,
) -> io::Result<impl Future<Output = io::Result<ExitStatus>> + Send> {
    let (tell, told) = oneshot::channel();
    let waiting = Waiting::new(process, tell)?;
    Ok(async move {
        // The sender is dropped only after it was used.
        let _ = told.await;
        exit_status(waiting.process.as_handle())
    })
}

/// Returns true if the process has not ended.
pub(super) fn is_running(process: BorrowedHandle<'_>) -> bool {
    // SAFETY: the handle is open, and a timeout of zero does not block.
    unsafe { WaitForSingleObject(process.as_raw_handle(), 0) == WAIT_TIMEOUT }
}

/// Returns the exit status if the process has ended.
pub(super) fn status(process: BorrowedHandle<'_>) -> Option<ExitStatus> {
    if is_running(process) { None } else { exit_status(process).ok() }
}

fn exit_status(process: BorrowedHandle<'_>) -> io::Result<ExitStatus> {
    let mut code = 0;
    // SAFETY: the handle is open, and the code is written to a variable of its type.
    check(unsafe { GetExitCodeProcess(process.as_raw_handle(), &mut code) })?;
    Ok(ExitStatus::from_raw(code))
}

type Tell = Option<oneshot::Sender<()>>;

/// A registered wait.
struct Waiting {
    wait: HANDLE,
    /// Owned by this value, and freed after the wait was unregistered.
    tell: *mut Tell,
    process: OwnedHandle,
}

// SAFETY: the handles are not bound to a thread, and the sender that `tell` points to is `Send`.
unsafe impl Send for Waiting {}

// SAFETY: a shared reference gives access only to the process handle, which may be shared.
unsafe impl Sync for Waiting {}

impl Waiting {
    fn new(process: OwnedHandle, tell: oneshot::Sender<()>) -> io::Result<Self> {
        let tell = Box::into_raw(Box::new(Some(tell)));
        let mut this = Self { wait: null_mut(), tell, process };
        // SAFETY: the process is open, and it and the target of `tell` live until the wait is unregistered.
        check(unsafe {
            RegisterWaitForSingleObject(
                &mut this.wait,
                this.process.as_raw_handle(),
                Some(has_ended),
                tell.cast(),
                INFINITE,
                WT_EXECUTEINWAITTHREAD | WT_EXECUTEONLYONCE,
            )
        })?;
        Ok(this)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.wait.is_null() {
            // SAFETY: the wait was registered and is unregistered once. The call returns after the
            // callback has finished, which does not block.
            unsafe { UnregisterWaitEx(self.wait, INVALID_HANDLE_VALUE) };
        }
        // SAFETY: the pointer was created by `Box::into_raw`, and the callback no longer uses it.
        drop(unsafe { Box::from_raw(self.tell) });
    }
}

/// Sends the notification. The system calls this when the process has ended.
///
/// # Safety
/// `tell` must point to a [`Tell`] that nothing else uses during the call.
unsafe extern "system" fn has_ended(tell: *mut c_void, _: bool) {
    // SAFETY: guaranteed by the caller.
    let tell = unsafe { &mut *tell.cast::<Tell>() };
    if let Some(tell) = tell.take() {
        let _ = tell.send(());
    }
}
