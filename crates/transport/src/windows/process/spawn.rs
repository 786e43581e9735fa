//! Starting a program in a job. The program inherits no handles except its stdin, stdout and stderr.
#![allow(unsafe_code)]

use std::ffi::{OsStr, OsString, c_void};
use std::io;
use std::marker::PhantomData;
use std::os::windows::ffi::OsStringExt;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, OwnedHandle};
use std::path::PathBuf;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{HANDLE, HANDLE_FLAG_INHERIT, SetHandleInformation};
use windows_sys::Win32::System::SystemInformation::GetSystemDirectoryW;
use windows_sys::Win32::System::Threading::{
    CREATE_UNICODE_ENVIRONMENT, CreateProcessW, DeleteProcThreadAttributeList,
    EXTENDED_STARTUPINFO_PRESENT, InitializeProcThreadAttributeList,
    PROC_THREAD_ATTRIBUTE_HANDLE_LIST, PROC_THREAD_ATTRIBUTE_JOB_LIST, PROCESS_INFORMATION,
    STARTF_USESTDHANDLES, STARTUPINFOEXW, UpdateProcThreadAttribute,
};

use super::command_line::wide;
use crate::windows::security::{check, owned};

/// The parameters of a new process.
pub(super) struct Command<'a> {
    /// The executable.
    pub(super) program: &'a OsStr,
    /// The command line, which ends with a zero, as the two fields below do.
    pub(super) line: Vec<u16>,
    /// Inherited from this process if `None`.
    pub(super) environment: Option<Vec<u16>>,
    /// Inherited from this process if `None`.
    pub(super) directory: Option<Vec<u16>>,
    /// Flags of CreateProcess.
    pub(super) flags: u32,
    /// The stdin, stdout and stderr of the process.
    pub(super) stdio: [OwnedHandle; 3],
    /// The job of the new process. The process is in it from the start, even if this process is killed
    /// during the call.
    pub(super) job: BorrowedHandle<'a>,
}

/// Starts the process. Returns its handle and its process ID.
pub(super) fn spawn(mut command: Command<'_>) -> io::Result<(OwnedHandle, u32)> {
    let program = wide(command.program);
    let inherited = command.stdio.each_ref().map(AsRawHandle::as_raw_handle);
    // If another program is started at this moment with all inheritable handles, it also inherits these.
    // The child's output then ends only with its job.
    for handle in inherited {
        // SAFETY: the handle is open, and `command` owns it.
        check(unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT) })?;
    }
    let jobs = [command.job.as_raw_handle()];
    let mut attributes = Attributes::new(2)?;
    attributes.set(PROC_THREAD_ATTRIBUTE_HANDLE_LIST, &inherited)?;
    attributes.set(PROC_THREAD_ATTRIBUTE_JOB_LIST, &jobs)?;
    let mut startup = STARTUPINFOEXW { lpAttributeList: attributes.list(), ..Default::default() };
    startup.StartupInfo.cb = size_of::<STARTUPINFOEXW>() as u32;
    startup.StartupInfo.dwFlags = STARTF_USESTDHANDLES;
    let [stdin, stdout, stderr] = inherited;
    startup.StartupInfo.hStdInput = stdin;
    startup.StartupInfo.hStdOutput = stdout;
    startup.StartupInfo.hStdError = stderr;
    let or_ours = |text: &Option<Vec<u16>>| text.as_ref().map_or(null(), |text| text.as_ptr());
    let mut process = PROCESS_INFORMATION::default();
    // SAFETY: every text ends with a zero (the environment with two), the command line is writable, the
    // startup information has the size that it contains, and all of it lives until the call returns.
    check(unsafe {
        CreateProcessW(
            program.as_ptr(),
            command.line.as_mut_ptr(),
            null(),
            null(),
            1,
            command.flags | CREATE_UNICODE_ENVIRONMENT | EXTENDED_STARTUPINFO_PRESENT,
            or_ours(&command.environment).cast(),
            or_ours(&command.directory),
            (&raw const startup).cast(),
            &mut process,
        )
    })?;
    drop(owned(process.hThread)?);
    Ok((owned(process.hProcess)?, process.dwProcessId))
}

/// Additional attributes of a new process. Their values are borrowed.
struct Attributes<'a> {
    /// An array of words, because it contains pointers.
    list: Box<[usize]>,
    lent: PhantomData<&'a [HANDLE]>,
}

impl<'a> Attributes<'a> {
    fn new(count: u32) -> io::Result<Self> {
        let mut size = 0;
        // SAFETY: a null list requests only the size, which the call returns with an error.
        unsafe { InitializeProcThreadAttributeList(null_mut(), count, 0, &mut size) };
        let mut list = vec![0_usize; size.div_ceil(size_of::<usize>())].into_boxed_slice();
        // SAFETY: the list has the requested size.
        check(unsafe {
            InitializeProcThreadAttributeList(list.as_mut_ptr().cast(), count, 0, &mut size)
        })?;
        Ok(Self { list, lent: PhantomData })
    }

    fn set(&mut self, attribute: u32, handles: &'a [HANDLE]) -> io::Result<()> {
        // SAFETY: the list was initialized, and the handles live as long as it does.
        check(unsafe {
            UpdateProcThreadAttribute(
                self.list(),
                0,
                attribute as usize,
                handles.as_ptr().cast(),
                size_of_val(handles),
                null_mut(),
                null(),
            )
        })
    }

    fn list(&mut self) -> *mut c_void {
        self.list.as_mut_ptr().cast()
    }
}

impl Drop for Attributes<'_> {
    fn drop(&mut self) {
        // SAFETY: the list was initialized.
        unsafe { DeleteProcThreadAttributeList(self.list()) };
    }
}

/// Returns the path of `cmd.exe` in the system directory, to which only the system can write.
pub(super) fn shell() -> io::Result<PathBuf> {
    let mut directory = [0; 260];
    // SAFETY: the buffer is as large as the given length.
    let length = unsafe { GetSystemDirectoryW(directory.as_mut_ptr(), directory.len() as u32) };
    match directory.get(..length as usize) {
        Some(directory @ [_, ..]) => {
            Ok(PathBuf::from(OsString::from_wide(directory)).join("cmd.exe"))
        }
        _ => Err(io::Error::last_os_error()),
    }
}
