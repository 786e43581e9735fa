//! The search for a program before it is started, so that an error can list the searched places.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::error::{ErrorKind, Operation, TransportError};

/// Returns the path of the file that `program` names.
///
/// If `program` contains a slash, it is a path, relative to `cwd`. Otherwise, the first executable with
/// that name in the `PATH` of this process is used. The `PATH` of the program's environment is not
/// searched.
///
/// # Errors
/// [`DirectoryMissing`](ErrorKind::DirectoryMissing) for `cwd`,
/// [`CommandNotFound`](ErrorKind::CommandNotFound) with the searched places, or
/// [`NotExecutable`](ErrorKind::NotExecutable).
pub fn resolve(program: &OsStr, cwd: Option<&Path>) -> Result<PathBuf, TransportError> {
    let fail = |kind| Err(TransportError::new(kind, Operation::Launch));
    if let Some(cwd) = cwd.filter(|cwd| !cwd.is_dir()) {
        return fail(ErrorKind::DirectoryMissing(cwd.to_owned()));
    }
    let candidates = if program.as_encoded_bytes().contains(&b'/') {
        vec![cwd.unwrap_or(Path::new("")).join(program)]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<PathBuf> = Vec::new();
        for place in std::env::split_paths(&path).map(|directory| directory.join(program)) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    };
    let files = || candidates.iter().filter(|candidate| candidate.is_file());
    if let Some(found) = files().find(|file| rustix::fs::access(*file, Access::EXEC_OK).is_ok()) {
        // A relative path would be resolved again after the child has changed its directory.
        return Ok(std::path::absolute(found).unwrap_or_else(|_| found.clone()));
    }
    match files().next() {
        Some(file) => fail(ErrorKind::NotExecutable(file.clone())),
        None => fail(ErrorKind::CommandNotFound { searched: candidates }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        let found = resolve("sh".as_ref(), None).unwrap();
        assert!(found.is_absolute() && found.ends_with("sh"), "{found:?}");
        assert_eq!(resolve(found.as_os_str(), None).unwrap(), found);
        assert_eq!(resolve("bin/sh".as_ref(), Some("/".as_ref())).unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn each_cause_has_its_own_error() {
        let kind = |program: &str, cwd: Option<&Path>| match resolve(program.as_ref(), cwd) {
            Err(error) => format!("{:?}", error.kind()),
            Ok(found) => panic!("{found:?}"),
        };
        let missing = kind("no-such-program-here", None);
        assert!(missing.starts_with("CommandNotFound"), "{missing}");
        assert!(missing.contains("/bin/no-such-program-here"), "{missing}");
        assert!(kind("./no-such-program", None).starts_with("CommandNotFound"));
        assert!(kind("/", None).starts_with("CommandNotFound"));
        assert!(kind("sh", Some(Path::new("/no/such/dir"))).starts_with("DirectoryMissing"));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("plain");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(kind("./plain", Some(directory.path())).starts_with("NotExecutable"));
    }
}
