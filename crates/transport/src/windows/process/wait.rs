//! Waiting for the end of a process without a thread of our own: the system's pool waits for it.
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

/// Completes with its status when the process has ended.
pub(super) fn ended(
    process: OwnedHandle,
) -> io::Result<impl Future<Output = io::Result<ExitStatus>> + Send> {
    let (tell, told) = oneshot::channel();
    let waiting = Waiting::new(process, tell)?;
    Ok(async move {
        // It is told before anybody drops the other end.
        let _ = told.await;
        exit_status(waiting.process.as_handle())
    })
}

/// Whether it has not ended.
pub(super) fn is_running(process: BorrowedHandle<'_>) -> bool {
    // SAFETY: the handle is open, and it is not waited.
    unsafe { WaitForSingleObject(process.as_raw_handle(), 0) == WAIT_TIMEOUT }
}

/// Its status, if it has ended.
pub(super) fn status(process: BorrowedHandle<'_>) -> Option<ExitStatus> {
    if is_running(process) { None } else { exit_status(process).ok() }
}

fn exit_status(process: BorrowedHandle<'_>) -> io::Result<ExitStatus> {
    let mut code = 0;
    // SAFETY: the handle is open, and the code is written to a place of its size.
    check(unsafe { GetExitCodeProcess(process.as_raw_handle(), &mut code) })?;
    Ok(ExitStatus::from_raw(code))
}

type Tell = Option<oneshot::Sender<()>>;

/// A wait that the system was asked for.
struct Waiting {
    wait: HANDLE,
    /// Ours to free, when the system does not use it any more.
    tell: *mut Tell,
    process: OwnedHandle,
}

// SAFETY: neither is bound to a thread, and what `tell` points to may be sent itself.
unsafe impl Send for Waiting {}

// SAFETY: nothing can be done with a reference but to read the process's handle, which may be shared.
unsafe impl Sync for Waiting {}

impl Waiting {
    fn new(process: OwnedHandle, tell: oneshot::Sender<()>) -> io::Result<Self> {
        let tell = Box::into_raw(Box::new(Some(tell)));
        let mut this = Self { wait: null_mut(), tell, process };
        // SAFETY: the process is open, and it and what `tell` points to stay until the wait is over.
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
            // SAFETY: it was registered and is unregistered once. It returns when nobody is in the
            // callback, which waits for nothing.
            unsafe { UnregisterWaitEx(self.wait, INVALID_HANDLE_VALUE) };
        }
        // SAFETY: it was made by us, and nobody uses it any more.
        drop(unsafe { Box::from_raw(self.tell) });
    }
}

/// # Safety
/// `tell` must point to a [`Tell`] that nobody else uses.
unsafe extern "system" fn has_ended(tell: *mut c_void, _: bool) {
    // SAFETY: says the caller.
    let tell = unsafe { &mut *tell.cast::<Tell>() };
    if let Some(tell) = tell.take() {
        let _ = tell.send(());
    }
}
