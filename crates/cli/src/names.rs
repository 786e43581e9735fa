//! Names of servers. A name stands for a socket or pipe of the current user.

mod command;
#[cfg_attr(windows, path = "names/windows.rs")]
#[cfg_attr(not(windows), path = "names/unix.rs")]
mod place;

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use tieline_transport::{DynAcceptor, Endpoint, ErrorKind, Options, Registry};

use crate::report::Failure;
use crate::sessions::{self, Served};

#[cfg(windows)]
pub(crate) use place::{PIPES, PREFIX};
pub(crate) use place::{check_owner, exists, holder, prepare};
#[cfg(not(windows))]
pub(crate) use place::{directory, existing, path};

/// The maximum length of a name in bytes.
const MAX_LENGTH: usize = 40;

/// The maximum number of servers with the same default name.
const MAX_NUMBER: u32 = 1000;

/// The maximum length of a default name without its number.
const MAX_STEM: usize = MAX_LENGTH - "-1000".len();

/// The name of a server: letters, digits, `_` and `-`, which needs no quoting in a shell and is never a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(String);

impl Name {
    /// Creates a name, or returns `None` if the text is not valid.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let is_name = (1..=MAX_LENGTH).contains(&text.len())
            && text.bytes().all(plain)
            // On a command line, it would be an option.
            && !text.starts_with('-');
        is_name.then(|| Self(text.to_owned()))
    }

    /// Parses a name that a server may use.
    pub(crate) fn to_serve(text: &str) -> Result<Self, String> {
        let name = Self::new(text).ok_or_else(|| {
            format!(
                "a name consists of at most {MAX_LENGTH} letters, digits, `_` and `-`, and does not begin \
                 with `-`; for a path use --listen unix:PATH"
            )
        })?;
        match name.is_reserved() {
            true => {
                Err("`bus` and names that begin with `share-` are reserved; use another".into())
            }
            false => Ok(name),
        }
    }

    /// Returns the default name for a server whose program is `command`, run in `directory`.
    pub(crate) fn of_command(command: &[OsString], directory: &Path) -> Self {
        Self::from_any(&command::subject(command, directory))
    }

    /// Creates a name from any text by replacing the characters that a name cannot contain.
    fn from_any(text: &str) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        let text: String = text.chars().map(plain).collect();
        let text: String = text.trim_matches('-').chars().take(MAX_STEM).collect();
        match Self::new(text.trim_end_matches('-')) {
            Some(name) if !name.is_reserved() => name,
            Some(Self(reserved)) => {
                Self(format!("program-{reserved}").chars().take(MAX_STEM).collect())
            }
            None => Self("program".into()),
        }
    }

    /// Returns the name of the server with this number among the servers with the same default name.
    fn numbered(&self, number: u32) -> Self {
        match number {
            1 => self.clone(),
            _ => Self(format!("{}-{number}", self.0)),
        }
    }

    /// Returns true for names that tieline may use itself. Case is ignored, as by pipes and some file
    /// systems.
    fn is_reserved(&self) -> bool {
        let name = self.0.to_ascii_lowercase();
        name == "bus" || name.starts_with("share-")
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the endpoint of the server with this name. Nothing is looked up.
    pub(crate) fn endpoint(&self) -> Endpoint {
        place::endpoint(self)
    }

    /// Returns the name that stands for `endpoint`, if there is one.
    pub(crate) fn at(endpoint: &Endpoint) -> Option<Self> {
        place::name_at(endpoint)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Replaces a name on a command line with its endpoint. The name may have a prefix such as `resume+`.
/// Returns other text unchanged.
pub(crate) fn expanded(text: &str) -> String {
    if text.contains(':') {
        return text.to_owned();
    }
    let (prefix, word) = match text.rsplit_once('+') {
        Some((prefix, word)) => (Some(prefix), word),
        None => (None, text),
    };
    match (Name::new(word).map(|name| name.endpoint()), prefix) {
        (Some(endpoint), Some(prefix)) => format!("{prefix}+{}", endpoint.exact()),
        (Some(endpoint), None) => endpoint.exact().to_string(),
        (None, _) => text.to_owned(),
    }
}

/// Returns the shortest text for an endpoint on a command line, which is its name if it has one.
pub(crate) fn shortened(endpoint: &Endpoint) -> String {
    let text = endpoint.exact().to_string();
    match Name::at(endpoint) {
        Some(name) => text.replace(&name.endpoint().exact().to_string(), name.as_str()),
        None => text,
    }
}

/// Listens as `name`, or with the next free number appended if that name is in use.
pub(crate) async fn listen_numbered(
    registry: &Registry,
    name: &Name,
    options: &Options,
    served: Served,
) -> Result<Box<dyn DynAcceptor>, Failure> {
    prepare().map_err(|problem| {
        Failure::other(format!("{problem}. Or choose an endpoint with --listen"))
    })?;
    for number in 1..=MAX_NUMBER {
        let numbered = name.numbered(number);
        match sessions::listen(registry, numbered.endpoint(), options, served).await {
            Err(error) if matches!(error.kind(), ErrorKind::AddressInUse) => {}
            listening => {
                let acceptor = listening?;
                if number > 1 {
                    tracing::info!(
                        "the name {name} is in use by another server; this one is {numbered}. Choose a \
                         name with --name"
                    );
                }
                return Ok(acceptor);
            }
        }
    }
    Err(Failure::other(format!(
        "{MAX_NUMBER} servers with the name {name} are running. Choose a name with --name"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_need_no_quoting() {
        let longest = "x".repeat(MAX_LENGTH);
        for good in ["a", "A-b_9", "8080", "_", &longest] {
            assert_eq!(Name::to_serve(good).unwrap().as_str(), good);
        }
        let too_long = "x".repeat(MAX_LENGTH + 1);
        for bad in ["", "-a", "a.b", "a b", "a/b", "../a", "a:", "é", "a\n", r"a\b", &too_long] {
            assert!(Name::new(bad).is_none(), "{bad}");
            assert!(Name::to_serve(bad).unwrap_err().contains("--listen unix:PATH"), "{bad}");
        }
        for reserved in ["bus", "BUS", "share-", "share-a", "Share-a"] {
            assert!(Name::new(reserved).is_some(), "{reserved}");
            assert!(Name::to_serve(reserved).unwrap_err().contains("are reserved"), "{reserved}");
        }
        assert!(Name::to_serve("share").is_ok() && Name::to_serve("bus-1").is_ok());
    }

    #[test]
    fn default_names_are_valid_names_for_servers() {
        let long = "x".repeat(100);
        for (text, name) in [
            ("agent", "agent"),
            ("my agent", "my-agent"),
            ("b.c", "b-c"),
            ("--agent--", "agent"),
            ("é", "program"),
            ("", "program"),
            ("..", "program"),
            ("bus", "program-bus"),
            ("share-x", "program-share-x"),
            (&long, &"x".repeat(MAX_STEM)),
            (&format!("share-{long}"), &format!("program-share-{}", "x".repeat(MAX_STEM - 14))),
            (&format!("{}-.-", "x".repeat(MAX_STEM - 1)), &"x".repeat(MAX_STEM - 1)),
        ] {
            let found = Name::from_any(text);
            assert_eq!(found.as_str(), name, "{text}");
            for number in [1, MAX_NUMBER] {
                Name::to_serve(found.numbered(number).as_str()).expect(text);
            }
        }
    }

    #[test]
    fn endpoints_of_names_are_shortened() {
        for text in ["my-agent", "resume+my-agent", "content-length+my-agent"] {
            let endpoint: Endpoint = expanded(text).parse().unwrap();
            assert_eq!(shortened(&endpoint), text);
        }
        assert_eq!(shortened(&"unix:/my-agent.sock".parse().unwrap()), "unix:/my-agent.sock");
    }

    #[test]
    fn only_names_are_expanded() {
        let endpoint = Name::new("my-agent").unwrap().endpoint().exact().to_string();
        assert_eq!(expanded("my-agent"), endpoint);
        assert_eq!(expanded("resume+my-agent"), format!("resume+{endpoint}"));
        assert_eq!(expanded("a+lines+my-agent"), format!("a+lines+{endpoint}"));
        for other in [
            "unix:my-agent",
            "./my-agent",
            "a.sock",
            "stdio:",
            "",
            "lines+",
            "exec:a +b",
            "unix:/a+b",
            r"\\.\pipe\a",
        ] {
            assert_eq!(expanded(other), other);
        }
    }
}
