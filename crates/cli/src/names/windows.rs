//! Names on Windows: pipes with a prefix, because all pipes of a machine share one namespace.

use tieline_transport::{Address, Endpoint};

use super::Name;

/// The prefix of pipes. Status pipes have it, too, but contain a `.`, which no name does.
pub(crate) const PREFIX: &str = "tieline-";

/// The directory of all pipes of this machine.
pub(crate) const PIPES: &str = r"\\.\pipe\";

pub(super) fn endpoint(name: &Name) -> Endpoint {
    Endpoint::new(Address::Pipe(pipe(name)))
}

pub(super) fn name_at(endpoint: &Endpoint) -> Option<Name> {
    match endpoint.address() {
        Address::Pipe(pipe) => Name::new(pipe.strip_prefix(PREFIX)?),
        _ => None,
    }
}

/// Does nothing: pipes need no directory.
pub(crate) fn prepare() -> Result<(), String> {
    Ok(())
}

/// Does nothing: a client checks the owner of each pipe.
pub(crate) fn check_owner() -> Result<(), String> {
    Ok(())
}

/// Returns true if there is a pipe with this name, or if the pipes cannot be listed.
pub(crate) fn exists(name: &Name) -> bool {
    // Opening the pipe would connect to it, so list the pipes.
    let pipe = pipe(name);
    let is_it = |entry: std::fs::DirEntry| entry.file_name().eq_ignore_ascii_case(&pipe);
    std::fs::read_dir(PIPES).map_or(true, |entries| entries.flatten().any(is_it))
}

/// Returns `None`, because only clients can ask which process serves a pipe.
pub(crate) fn holder(_: &Name) -> Option<(u32, String)> {
    None
}

fn pipe(name: &Name) -> String {
    format!("{PREFIX}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_found_in_its_endpoint() {
        let name = Name::new("my-agent").unwrap();
        let endpoint = endpoint(&name);
        assert_eq!(endpoint.to_string(), "pipe:tieline-my-agent");
        assert_eq!(name_at(&endpoint), Some(name));
        for other in ["pipe:my-agent", "pipe:tieline-7.status", "tcp:127.0.0.1:7000"] {
            assert_eq!(name_at(&other.parse().unwrap()), None, "{other}");
        }
    }
}
