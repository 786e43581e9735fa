//! A child's job object. It contains the child and all its descendants, and the system kills them when
//! the job's handle is closed for any reason.
#![allow(unsafe_code)]

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, OwnedHandle};
use std::ptr::null;

use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent, GetConsoleCP,
};
use windows_sys::Win32::System::JobObjects::{
    CreateJobObjectW, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JOBOBJECT_BASIC_ACCOUNTING_INFORMATION,
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JobObjectBasicAccountingInformation,
    JobObjectExtendedLimitInformation, QueryInformationJobObject, SetInformationJobObject,
    TerminateJobObject,
};

use crate::windows::security::{check, owned};

/// The exit code of processes that we killed. Programs use small numbers, and the system has its own
/// codes; this value (bits 29 to 31) belongs to neither. It contains 137, which shells use for SIGKILL.
pub(super) const KILLED: u32 = 0xE000_0000 | 137;

/// A job that processes cannot leave. Dropping it kills all processes in it.
#[derive(Debug)]
pub(super) struct Job(OwnedHandle);

impl Job {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: without attributes, the handle is not inherited, and without a name, the job cannot be
        // opened.
        let job = Self(owned(unsafe { CreateJobObjectW(null(), null()) })?);
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        // SAFETY: the handle is open, and the limits have the given type and size.
        check(unsafe {
            SetInformationJobObject(
                job.0.as_raw_handle(),
                JobObjectExtendedLimitInformation,
                (&raw const limits).cast(),
                size_of_val(&limits) as u32,
            )
        })?;
        Ok(job)
    }

    /// Kills all processes in the job. Never blocks.
    pub(super) fn kill(&self) {
        // SAFETY: the handle is open.
        unsafe { TerminateJobObject(self.0.as_raw_handle(), KILLED) };
    }

    /// Returns the number of processes in the job, or `None` if it cannot be queried.
    pub(super) fn active(&self) -> Option<u32> {
        let mut counts = JOBOBJECT_BASIC_ACCOUNTING_INFORMATION::default();
        let size = size_of_val(&counts) as u32;
        // SAFETY: the handle is open, and the counts have the given type and size.
        let asked = check(unsafe {
            QueryInformationJobObject(
                self.0.as_raw_handle(),
                JobObjectBasicAccountingInformation,
                (&raw mut counts).cast(),
                size,
                std::ptr::null_mut(),
            )
        });
        asked.ok().map(|()| counts.ActiveProcesses)
    }
}

impl AsHandle for Job {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.0.as_handle()
    }
}

/// Returns true if this process has a console, which its children share.
pub(super) fn has_console() -> bool {
    // SAFETY: the call takes no arguments. Without a console, there is no code page.
    unsafe { GetConsoleCP() != 0 }
}

/// Sends CTRL_BREAK to the group that the process leads. A handle of the process must be open, or its ID
/// may have been reused.
pub(super) fn interrupt(pid: u32) -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    check(unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, pid) })
}
