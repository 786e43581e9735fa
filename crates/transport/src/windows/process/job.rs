//! A child's job: it and all that comes of it, which ends when the job's handle closes, however that
//! comes about.
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

/// The exit code of what we have killed. Programs end with small numbers and the system with its own; this
/// is an error that is neither's (bits 29 to 31), and 137 in it is what shells say of SIGKILL.
pub(super) const KILLED: u32 = 0xE000_0000 | 137;

/// A job that nobody can leave. Dropping it kills all that is in it.
#[derive(Debug)]
pub(super) struct Job(OwnedHandle);

impl Job {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: without attributes the handle is not inherited, and without a name nobody finds it.
        let job = Self(owned(unsafe { CreateJobObjectW(null(), null()) })?);
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        // SAFETY: the handle is open, and the limits are of the kind and the size that is said.
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

    /// Kills all that is in it. Never blocks.
    pub(super) fn kill(&self) {
        // SAFETY: the handle is open.
        unsafe { TerminateJobObject(self.0.as_raw_handle(), KILLED) };
    }

    /// How many are in it; `None` where that cannot be asked.
    pub(super) fn active(&self) -> Option<u32> {
        let mut counts = JOBOBJECT_BASIC_ACCOUNTING_INFORMATION::default();
        let size = size_of_val(&counts) as u32;
        // SAFETY: the handle is open, and the place is of the kind and the size that is said.
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

/// Whether this process has a console, which its children then share.
pub(super) fn has_console() -> bool {
    // SAFETY: it takes nothing; without a console it has no code page.
    unsafe { GetConsoleCP() != 0 }
}

/// CTRL_BREAK for the group that the process leads. The process must be one that is held open, or its
/// number may be a stranger's.
pub(super) fn interrupt(pid: u32) -> io::Result<()> {
    // SAFETY: it takes no pointer.
    check(unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, pid) })
}
