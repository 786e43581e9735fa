//! Users and access rights: security identifiers and descriptors.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::path::Path;
use std::ptr::null_mut;

use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use windows_sys::Win32::Foundation::{HANDLE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1,
    SE_KERNEL_OBJECT,
};
use windows_sys::Win32::Security::{
    GetLengthSid, GetSecurityDescriptorDacl, GetTokenInformation, OWNER_SECURITY_INFORMATION,
    PSECURITY_DESCRIPTOR, PSID, SECURITY_ATTRIBUTES, SID_AND_ATTRIBUTES, TOKEN_INFORMATION_CLASS,
    TOKEN_QUERY, TokenIntegrityLevel, TokenUser,
};
use windows_sys::Win32::System::Pipes::{GetNamedPipeClientProcessId, GetNamedPipeServerProcessId};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, OpenProcess, OpenProcessToken, PROCESS_QUERY_LIMITED_INFORMATION,
};

/// The maximum length of an SID in bytes (SECURITY_MAX_SID_SIZE).
const LONGEST: usize = 68;

/// A security identifier (SID) of a user or a group, such as `S-1-5-21-…`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid {
    /// The SID, followed by zeroes.
    bytes: [u8; LONGEST],
}

impl Sid {
    /// Returns true for LocalSystem and the administrators, which have all rights anyway.
    pub(super) fn is_root(&self) -> bool {
        let text = self.to_string();
        text == "S-1-5-18" || text == "S-1-5-32-544"
    }

    /// # Safety
    /// `sid` must be a valid security identifier.
    unsafe fn copied(sid: PSID) -> io::Result<Self> {
        // SAFETY: the caller guarantees that `sid` is valid.
        let length = unsafe { GetLengthSid(sid) } as usize;
        let mut bytes = [0; LONGEST];
        let room = bytes.get_mut(..length).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: a valid identifier has as many bytes as `GetLengthSid` returns.
        room.copy_from_slice(unsafe { std::slice::from_raw_parts(sid.cast::<u8>(), length) });
        Ok(Self { bytes })
    }
}

impl fmt::Display for Sid {
    /// Writes the standard text form ([MS-DTYP] section 2.4.2.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [revision, count, a, b, c, d, e, g, rest @ ..] = &self.bytes;
        let authority = u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *g]);
        write!(f, "S-{revision}-{authority}")?;
        let parts = rest.chunks_exact(4).filter_map(|part| part.try_into().ok());
        let mut parts = parts.map(u32::from_le_bytes).take(usize::from(*count));
        parts.try_for_each(|part| write!(f, "-{part}"))
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns the user of this process.
pub(super) fn current_user() -> io::Result<Sid> {
    // SAFETY: the call takes no arguments and returns a pseudo handle that need not be closed.
    sid_behind(unsafe { GetCurrentProcess() }, TokenUser)
}

/// Returns the integrity level of this process, which is higher for elevated processes.
fn integrity() -> io::Result<Sid> {
    // SAFETY: as above.
    sid_behind(unsafe { GetCurrentProcess() }, TokenIntegrityLevel)
}

/// Returns the user of a process.
pub(super) fn user_of(pid: u32) -> io::Result<Sid> {
    // SAFETY: the call takes no pointers.
    let process = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, pid) };
    sid_behind(owned(process)?.as_raw_handle(), TokenUser)
}

/// Returns the SID in a process's token: `TokenUser` or `TokenIntegrityLevel`.
fn sid_behind(process: HANDLE, what: TOKEN_INFORMATION_CLASS) -> io::Result<Sid> {
    let mut token = null_mut();
    // SAFETY: the process handle is open, and the token is written to a variable of its type.
    check(unsafe { OpenProcessToken(process, TOKEN_QUERY, &mut token) })?;
    let token = owned(token)?;
    // An array of words, because the content begins with a pointer.
    let mut buffer =
        [0_usize; (size_of::<SID_AND_ATTRIBUTES>() + LONGEST).div_ceil(size_of::<usize>())];
    let size = size_of_val(&buffer) as u32;
    let mut needed = 0;
    let place = buffer.as_mut_ptr().cast::<c_void>();
    // SAFETY: the buffer is as large as `size` says, and the token is open.
    check(unsafe { GetTokenInformation(token.as_raw_handle(), what, place, size, &mut needed) })?;
    // SAFETY: the call wrote a TOKEN_USER or a TOKEN_MANDATORY_LABEL, which both consist of this
    // structure, and whose SID is in the same buffer.
    unsafe { Sid::copied((*place.cast::<SID_AND_ATTRIBUTES>()).Sid) }
}

/// Returns the owner of an object.
pub(super) fn owner_of(object: BorrowedHandle<'_>) -> io::Result<Sid> {
    let (mut owner, mut descriptor) = (null_mut(), null_mut());
    // SAFETY: the handle is open; both results are written to pointers, and the others are not requested.
    let failed = unsafe {
        GetSecurityInfo(
            object.as_raw_handle(),
            SE_KERNEL_OBJECT,
            OWNER_SECURITY_INFORMATION,
            &mut owner,
            null_mut(),
            null_mut(),
            null_mut(),
            &mut descriptor,
        )
    };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed as i32));
    }
    let owner = match owner.is_null() {
        true => Err(io::ErrorKind::NotFound.into()),
        // SAFETY: the pointer is into the descriptor, which is freed below.
        false => unsafe { Sid::copied(owner) },
    };
    // SAFETY: the call has allocated the descriptor, and it is freed only here.
    unsafe { LocalFree(descriptor) };
    owner
}

/// Returns the process ID of a connected pipe's client.
pub(super) fn client_of(pipe: BorrowedHandle<'_>) -> io::Result<u32> {
    let mut pid = 0;
    // SAFETY: the handle is open, and the process ID is written to a variable of its type.
    check(unsafe { GetNamedPipeClientProcessId(pipe.as_raw_handle(), &mut pid) })?;
    Ok(pid)
}

/// Returns the ID of the process that created the pipe's instance.
pub(super) fn server_of(pipe: BorrowedHandle<'_>) -> io::Result<u32> {
    let mut pid = 0;
    // SAFETY: the handle is open, and the process ID is written to a variable of its type.
    check(unsafe { GetNamedPipeServerProcessId(pipe.as_raw_handle(), &mut pid) })?;
    Ok(pid)
}

/// A security descriptor in one piece of memory: an object's owner and its access control list.
#[derive(Debug)]
pub(super) struct Descriptor(Box<[usize]>);

impl Descriptor {
    /// Creates a descriptor that admits only this process's user, which is also the owner, and only at
    /// this process's integrity level or above: ordinary processes of a user must not control or read an
    /// elevated one.
    pub(super) fn private() -> io::Result<Self> {
        let (user, integrity) = (current_user()?, integrity()?);
        Self::parse(&format!("O:{user}D:P(A;;GA;;;{user})S:(ML;;NWNR;;;{integrity})"))
    }

    /// Parses SDDL. If it names no owner, this process's user becomes the owner: the system's default
    /// may be a group, and clients check the owner of the pipe.
    pub(super) fn owned_by_us(text: &str) -> io::Result<Self> {
        match text.trim_start().starts_with("O:") {
            true => Self::parse(text),
            false => Self::parse(&format!("O:{}{text}", current_user()?)),
        }
    }

    /// Parses SDDL. A descriptor without an access list is refused, because it would admit every user.
    fn parse(text: &str) -> io::Result<Self> {
        let wide: Vec<u16> = text.encode_utf16().chain([0]).collect();
        let (mut descriptor, mut size): (PSECURITY_DESCRIPTOR, u32) = (null_mut(), 0);
        // SAFETY: the text ends with a zero, and the results are written to variables of their types.
        check(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                wide.as_ptr(),
                SDDL_REVISION_1,
                &mut descriptor,
                &mut size,
            )
        })?;
        let (mut present, mut list, mut defaulted) = (0, null_mut(), 0);
        // SAFETY: the descriptor is valid, and the results are written to variables of their types.
        let asked = check(unsafe {
            GetSecurityDescriptorDacl(descriptor, &mut present, &mut list, &mut defaulted)
        });
        let size = size as usize;
        let mut words = vec![0_usize; size.div_ceil(size_of::<usize>())].into_boxed_slice();
        // SAFETY: a descriptor converted from text is a single piece of `size` bytes, `words` is large
        // enough, and the descriptor is freed only here.
        unsafe {
            std::ptr::copy_nonoverlapping(descriptor.cast::<u8>(), words.as_mut_ptr().cast(), size);
            LocalFree(descriptor);
        }
        asked?;
        match present != 0 && !list.is_null() {
            true => Ok(Self(words)),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no access list (D:)")),
        }
    }

    /// Creates an instance of a pipe with this descriptor.
    pub(super) fn create(
        &self,
        options: &ServerOptions,
        path: &Path,
    ) -> io::Result<NamedPipeServer> {
        let mut attributes = SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: self.0.as_ptr().cast_mut().cast(),
            bInheritHandle: 0,
        };
        // SAFETY: the attributes are valid, and the system only reads them during the call.
        unsafe { options.create_with_security_attributes_raw(path, (&raw mut attributes).cast()) }
    }
}

/// Takes ownership of a handle that a call has returned.
pub(super) fn owned(handle: RawHandle) -> io::Result<OwnedHandle> {
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was just opened, and nothing else closes it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Converts the BOOL result of a call.
pub(super) fn check(done: i32) -> io::Result<()> {
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use windows_sys::Win32::Security::GetSecurityDescriptorSacl;

    use super::*;

    #[test]
    fn current_user_is_found_by_process_id() {
        let user = current_user().unwrap();
        assert!(user.to_string().starts_with("S-1-5-"), "{user}");
        assert_eq!(user_of(std::process::id()).unwrap(), user);
    }

    /// The label is a separate list with one entry. Without it, processes of lower integrity would be
    /// admitted.
    #[test]
    fn private_descriptor_has_our_integrity_label() {
        let label = integrity().unwrap();
        assert!(label.to_string().starts_with("S-1-16-"), "{label}");
        let Descriptor(words) = Descriptor::private().unwrap();
        let (mut present, mut list, mut defaulted) = (0, null_mut(), 0);
        let place = words.as_ptr().cast_mut().cast();
        // SAFETY: the descriptor is valid, its lists are inside it, and the results are written to
        // variables of their types.
        unsafe {
            check(GetSecurityDescriptorSacl(place, &mut present, &mut list, &mut defaulted))
                .unwrap();
            assert!(present != 0 && !list.is_null());
            assert_eq!((*list).AceCount, 1);
            let entry = list.add(1).cast::<u32>();
            let (kind, mask) = (*entry.cast::<u8>(), *entry.add(1));
            // SYSTEM_MANDATORY_LABEL_ACE_TYPE with no-write-up and no-read-up.
            assert_eq!((kind, mask), (0x11, 0x1 | 0x2));
            assert_eq!(Sid::copied(entry.add(2).cast()).unwrap(), label);
        }
    }

    #[test]
    fn descriptor_without_an_access_list_is_refused() {
        assert!(Descriptor::private().is_ok());
        assert!(Descriptor::parse("D:P(A;;GA;;;WD)").is_ok(), "admits every user explicitly");
        for text in ["", "O:WD", "no SDDL"] {
            assert!(Descriptor::parse(text).is_err(), "{text:?}");
        }
    }
}
