//! A child's job: it and all that comes of it, which ends when the job's handle closes, however that
//! comes about.
#![allow(unsafe_code)]

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle, RawHandle};
use std::ptr::null;

use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent, GetConsoleCP,
};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE,
    JOBOBJECT_BASIC_ACCOUNTING_INFORMATION, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
    JobObjectBasicAccountingInformation, JobObjectExtendedLimitInformation,
    QueryInformationJobObject, SetInformationJobObject, TerminateJobObject,
};
use windows_sys::Win32::System::Threading::{OpenThread, ResumeThread, THREAD_SUSPEND_RESUME};

use crate::windows::security::{check, owned};

/// The exit code of what is killed; it is that of `std`'s `Child::kill`.
pub(super) const KILLED: u32 = 1;

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

    /// Takes in a process that has not begun to run, and so everything that comes of it.
    pub(super) fn take_in(&self, process: RawHandle) -> io::Result<()> {
        // SAFETY: both handles are open.
        check(unsafe { AssignProcessToJobObject(self.0.as_raw_handle(), process) })
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

/// Lets a process that was started suspended begin.
pub(super) fn resume(pid: u32) -> io::Result<()> {
    // SAFETY: it takes no pointer.
    let threads = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0) };
    if threads == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    let threads = owned(threads)?;
    let mut entry =
        THREADENTRY32 { dwSize: size_of::<THREADENTRY32>() as u32, ..Default::default() };
    // SAFETY: the snapshot is open, and the entry says its size.
    let mut more = unsafe { Thread32First(threads.as_raw_handle(), &mut entry) };
    let mut resumed = Err(io::ErrorKind::NotFound.into());
    while more != 0 {
        if entry.th32OwnerProcessID == pid {
            resumed = resume_thread(entry.th32ThreadID);
        }
        // SAFETY: as above.
        more = unsafe { Thread32Next(threads.as_raw_handle(), &mut entry) };
    }
    resumed
}

fn resume_thread(id: u32) -> io::Result<()> {
    // SAFETY: it takes no pointer.
    let thread = owned(unsafe { OpenThread(THREAD_SUSPEND_RESUME, 0, id) })?;
    // SAFETY: the handle is open.
    let before = unsafe { ResumeThread(thread.as_raw_handle()) };
    if before == u32::MAX { Err(io::Error::last_os_error()) } else { Ok(()) }
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
