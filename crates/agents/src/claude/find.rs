//! Finds the program at a given path, or in `PATH` and in the places where its installers put it. No
//! environment variable overrides this.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tieline_transport::{Endpoint, ErrorKind, Operation, TransportError, resolve};

/// The name of the program.
const NAME: &str = "claude";

/// Places relative to the home directory: those of the native installer, of the program's local
/// installation, of npm (two), and of yarn.
const IN_HOME: &[&str] = &[
    ".local/bin/claude",
    ".claude/local/claude",
    ".npm-global/bin/claude",
    "node_modules/.bin/claude",
    ".yarn/bin/claude",
];

const ANYWHERE: &[&str] = &["/usr/local/bin/claude", "/opt/homebrew/bin/claude"];

const HINT: &str = "install it (npm install -g @anthropic-ai/claude-code), or pass its full path";

/// Finds the Claude CLI: `program` if given, otherwise the first one in `PATH` and in the places where its
/// installers put it.
///
/// # Errors
/// [`CommandNotFound`](ErrorKind::CommandNotFound) with all places searched, or
/// [`NotExecutable`](ErrorKind::NotExecutable) if only a file that is not executable was found.
pub fn find(program: Option<&Path>) -> Result<PathBuf, TransportError> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    match program {
        Some(program) => first(&[program.as_os_str()]),
        None => {
            let usual = usual_places(home.as_deref());
            let places = [OsStr::new(NAME)].into_iter().chain(usual.iter().map(|p| p.as_os_str()));
            first(&places.collect::<Vec<_>>())
        }
    }
}

fn usual_places(home: Option<&Path>) -> Vec<PathBuf> {
    let in_home = home.into_iter().flat_map(|home| IN_HOME.iter().map(|place| home.join(place)));
    in_home.chain(ANYWHERE.iter().map(PathBuf::from)).collect()
}

fn first(names: &[&OsStr]) -> Result<PathBuf, TransportError> {
    let mut searched: Vec<PathBuf> = Vec::new();
    let mut other = None;
    for name in names {
        let error = match resolve(name, None) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::CommandNotFound { searched: here } => {
                searched.extend(
                    here.iter()
                        .filter(|place| !searched.contains(place))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
            }
            _ => other = other.or(Some(error)),
        }
    }
    let nowhere = || {
        TransportError::new(ErrorKind::CommandNotFound { searched }, Operation::Launch)
            .with_hint(HINT)
    };
    let program = names.first().copied().unwrap_or(OsStr::new(NAME));
    Err(other.unwrap_or_else(nowhere).at(&Endpoint::exec::<&OsStr>(program, [])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn given_path_is_the_only_place_searched() {
        assert!(find(Some(Path::new("/bin/sh"))).is_ok());
        let error = find(Some(Path::new("/no/such/claude"))).unwrap_err();
        let text = error.to_string();
        assert!(text.ends_with("searched /no/such/claude"), "{text}");
        assert!(error.hint().unwrap().contains("npm install"), "{error:?}");
    }

    #[test]
    fn error_names_all_places_searched() {
        let home = tempfile::tempdir().unwrap();
        let places = usual_places(Some(home.path()));
        let mut names: Vec<&OsStr> = places.iter().map(|place| place.as_os_str()).collect();
        names.retain(|name| {
            name.as_encoded_bytes().starts_with(home.path().as_os_str().as_encoded_bytes())
        });
        names.insert(0, OsStr::new("no-such-program-anywhere"));
        let error = first(&names).unwrap_err();
        let ErrorKind::CommandNotFound { searched } = error.kind() else { panic!("{error}") };
        assert!(searched.iter().any(|it| it.ends_with("bin/no-such-program-anywhere")), "{error}");
        for place in IN_HOME {
            assert!(searched.iter().any(|it| it.ends_with(place)), "{place}: {error}");
        }
        // A file that is not executable is reported; an executable one ends the search.
        let plain = home.path().join(IN_HOME[0]);
        let good = home.path().join(IN_HOME[1]);
        for file in [&plain, &good] {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "#!/bin/sh\n").unwrap();
        }
        let mode = |file, mode| {
            std::fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
        };
        mode(&plain, 0o600);
        mode(&good, 0o600);
        assert!(
            matches!(first(&names).unwrap_err().kind(), ErrorKind::NotExecutable(it) if *it == plain)
        );
        mode(&good, 0o700);
        assert_eq!(first(&names).unwrap(), good);
    }
}
