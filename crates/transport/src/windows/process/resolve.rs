//! The search for a program before it is started, so that an error can list the searched places and no
//! program is started from an unexpected place.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::error::{ErrorKind, Operation, TransportError};

/// Returns the path of the file that `program` names.
///
/// If `program` contains a separator, it is a path, relative to `cwd`. Otherwise, the first file with
/// that name in `PATH` is used. A name without an extension is tried with the extensions of `PATHEXT`,
/// in their order: `npx` finds `npx.cmd`. Only `.com`, `.exe`, `.bat` and `.cmd` are used: files with
/// other extensions, such as `.vbs` and `.js`, need another program to start them. The current directory
/// is not searched.
///
/// # Errors
/// [`DirectoryMissing`](ErrorKind::DirectoryMissing) for `cwd`,
/// [`CommandNotFound`](ErrorKind::CommandNotFound) with the searched places, or
/// [`NotExecutable`](ErrorKind::NotExecutable) for a file with none of those extensions.
pub fn resolve(program: &OsStr, cwd: Option<&Path>) -> Result<PathBuf, TransportError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let endings = variable("PATHEXT").unwrap_or_else(|| STARTABLE.join(";").into());
    let path = variable("PATH").unwrap_or_default();
    resolve_in(program, cwd, &path, &endings.to_string_lossy())
}

/// The extensions of files that can be started: programs by the system, batch files by `cmd.exe`.
const STARTABLE: [&str; 4] = [".COM", ".EXE", ".BAT", ".CMD"];

fn resolve_in(
    program: &OsStr,
    cwd: Option<&Path>,
    path: &OsStr,
    endings: &str,
) -> Result<PathBuf, TransportError> {
    let fail = |kind| Err(TransportError::new(kind, Operation::Launch));
    if let Some(cwd) = cwd.filter(|cwd| !cwd.is_dir()) {
        return fail(ErrorKind::DirectoryMissing(cwd.to_owned()));
    }
    let is_startable = |ending: &&str| STARTABLE.iter().any(|it| it.eq_ignore_ascii_case(ending));
    let endings: Vec<&str> = endings.split(';').filter(is_startable).collect();
    let has_separator =
        program.as_encoded_bytes().iter().any(|byte| matches!(byte, b'/' | b'\\' | b':'));
    let places = if has_separator {
        vec![cwd.unwrap_or(Path::new("")).join(program)]
    } else {
        // An empty or relative entry would mean the current directory, which may contain files of other
        // users.
        let places = std::env::split_paths(path).filter(|place| place.is_absolute());
        places.map(|place| place.join(program)).collect()
    };
    let mut searched = Vec::new();
    for place in places {
        for candidate in candidates(&place, &endings) {
            if candidate.is_file() {
                return Ok(std::path::absolute(&candidate).unwrap_or(candidate));
            }
            if !searched.contains(&candidate) {
                searched.push(candidate);
            }
        }
        if has_separator && place.is_file() {
            return fail(ErrorKind::NotExecutable(place));
        }
    }
    fail(ErrorKind::CommandNotFound { searched })
}

/// Returns `place` itself if it has the extension of a program, then `place` with each extension.
fn candidates(place: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let has_ending = place.extension().is_some_and(|has| {
        let has = has.to_string_lossy();
        endings.iter().any(|ending| ending.get(1..).is_some_and(|it| it.eq_ignore_ascii_case(&has)))
    });
    let with = |ending: &&str| {
        let mut name: OsString = place.as_os_str().to_owned();
        name.push(ending.to_ascii_lowercase());
        PathBuf::from(name)
    };
    has_ending.then(|| place.to_owned()).into_iter().chain(endings.iter().map(with)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_with_program_extensions_in_order() {
        let base = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| base.path().join(name));
        for (directory, files) in [
            (&first, &["npx", "npx.js", "npx.cmd", "npx.exe.txt"][..]),
            (&second, &["npx.exe", "a.b.exe"]),
        ] {
            std::fs::create_dir(directory).unwrap();
            for file in files {
                std::fs::write(directory.join(file), "").unwrap();
            }
        }
        let path = std::env::join_paths([Path::new(""), Path::new("."), &first, &second]).unwrap();
        let found = |name: &str| {
            let found = resolve_in(name.as_ref(), None, &path, ".JS;.EXE;.CMD;bad;;").ok()?;
            Some(found.strip_prefix(base.path()).unwrap().to_string_lossy().replace('\\', "/"))
        };
        assert_eq!(found("npx").as_deref(), Some("first/npx.cmd"), "the first in PATH");
        assert_eq!(found("npx.exe").as_deref(), Some("second/npx.exe"));
        assert_eq!(found("a.b").as_deref(), Some("second/a.b.exe"));
        assert_eq!(found("nothing"), None);
        assert_eq!(found("npx.js"), None, "the system cannot start it directly");
        let by_path = resolve_in(first.join("npx").as_os_str(), None, &path, ".CMD").unwrap();
        assert!(by_path.ends_with("npx.cmd"), "{by_path:?}");
        let error = resolve_in(first.join("npx").as_os_str(), None, &path, ".EXE").unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NotExecutable(_)), "{error:?}");
        let relative = resolve_in("./npx".as_ref(), Some(&first), &path, ".CMD").unwrap();
        assert!(relative.is_absolute() && relative.ends_with("npx.cmd"), "{relative:?}");
        let missing = Path::new(r"C:\no\such\directory");
        let error = resolve_in("npx".as_ref(), Some(missing), &path, ".EXE").unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DirectoryMissing(_)), "{error:?}");
    }
}
