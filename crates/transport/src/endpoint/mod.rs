//! Endpoints and their text form: `unix:/run/a.sock`, `content-length+exec:pylsp`, `mem:name`.

mod argv;
mod host;
mod invalid;
mod parse;
mod percent;
mod pipe;
mod print;
mod redact;

use std::ffi::{OsStr, OsString};
use std::fmt;

use tieline_proto::FramingKind;

use self::print::{Exact, Secrets};

pub use self::host::is_loopback;
pub(crate) use self::invalid::foreign;
pub use self::percent::percent_decoded;
pub use self::redact::{is_secret_name, redact};

/// The address of the other end of a line, with an optional framing.
///
/// Its text form is `[framing+|resume+]scheme:rest`:
///
/// | text | meaning |
/// |---|---|
/// | `unix:/run/agent.sock` | a Unix socket; `%XX` encodes any byte, and `%` and `?` must be written as `%25` and `%3F` |
/// | `unix:@agent` | an abstract Unix socket (Linux) |
/// | `pipe:agent`, `pipe:\\.\pipe\agent`, `\\.\pipe\agent` | a Windows named pipe; after `pipe:`, `%XX` as above |
/// | `exec:claude --verbose` | a child process; words are separated by whitespace, which can be quoted; backslashes are literal |
/// | `exec:["claude","-p","a \"b\""]` | the same in exact form: a JSON array of strings |
/// | `stdio:` | this process's own stdin and stdout |
/// | `tcp:127.0.0.1:7000`, `tcp:[::1]:7000` | a TCP port |
/// | `mem:name` | a name inside this process |
/// | `content-length+exec:pylsp` | any of these with an explicit framing |
/// | `mcp+https://example.org/x` | the Model Context Protocol over HTTP, at a path that does not end with `/mcp` |
/// | `resume+unix:/run/agent.sock` | a session that survives the loss of its connection; excludes a framing |
///
/// `Display` and `Debug` are for users: they hide text that looks like a secret in a command line or
/// URL, and shorten long arguments. [`exact`](Self::exact) prints the full text, which parses as the
/// same endpoint.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    content: Content,
    address: Address,
}

/// The content that a line carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Content {
    /// Messages in the given framing, or in the transport's default framing.
    Messages(Option<FramingKind>),
    /// A session, which survives the loss of a connection.
    Session,
    /// The frames of a session, over one connection.
    SessionFrames,
}

/// An [`Endpoint`] without its framing.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// The path of a Unix socket.
    Unix(OsString),
    /// The name of a Linux abstract Unix socket.
    UnixAbstract(OsString),
    /// The name of a Windows named pipe, without `\\.\pipe\`.
    Pipe(String),
    /// A program and its arguments; never empty.
    Exec(Vec<OsString>),
    /// The stdin and stdout of this process.
    Stdio,
    /// A TCP port.
    Tcp {
        /// A host name or an address. IPv6 addresses have no brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A name inside this process.
    Memory(String),
    /// Any other scheme and the text after its colon.
    Other {
        /// Lower-case letters, digits, `.` and `-`, starting with a letter; or `mcp+` and `http`, `https` or
        /// `http-unix`.
        scheme: String,
        /// The text after the colon, unchanged.
        rest: String,
    },
}

impl Endpoint {
    /// Returns an endpoint with the default framing of its transport.
    pub fn new(address: Address) -> Self {
        Self { content: Content::Messages(None), address }
    }

    /// Returns the endpoint of the Unix socket at `path`.
    pub fn unix(path: impl AsRef<OsStr>) -> Self {
        Self::new(Address::Unix(path.as_ref().to_owned()))
    }

    /// Returns the endpoint of a child process that runs `program` with `args`.
    pub fn exec<A: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let program = program.as_ref().to_owned();
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        Self::new(Address::Exec(std::iter::once(program).chain(args).collect()))
    }

    /// Returns the endpoint of this process's own stdin and stdout.
    pub fn stdio() -> Self {
        Self::new(Address::Stdio)
    }

    /// Returns the endpoint of a name inside this process.
    pub fn memory(name: impl Into<String>) -> Self {
        Self::new(Address::Memory(name.into()))
    }

    /// Returns the same address with `framing`, and without a session.
    #[must_use]
    pub fn with_framing(mut self, framing: FramingKind) -> Self {
        self.content = Content::Messages(Some(framing));
        self
    }

    /// Returns the endpoint of a session at the same address. A session survives the loss of its
    /// connection and has its own framing.
    #[must_use]
    pub fn resumable(mut self) -> Self {
        self.content = Content::Session;
        self
    }

    /// Returns true if the endpoint is a session that survives the loss of its connection.
    pub fn is_resumable(&self) -> bool {
        self.content == Content::Session
    }

    /// Returns the endpoint of a session's connections: the same address, for session frames. It is
    /// printed as the session's endpoint, so that errors and logs show what the user wrote. Parsing that
    /// text returns the session's endpoint.
    #[must_use]
    pub fn carrier(&self) -> Self {
        Self { content: Content::SessionFrames, ..self.clone() }
    }

    /// Returns true if the endpoint is that of a session's connections ([`carrier`](Self::carrier)).
    /// Byte streams carry session frames in the framing `length-prefix`; other schemes have their own
    /// way.
    pub fn is_carrier(&self) -> bool {
        self.content == Content::SessionFrames
    }

    /// Returns the same endpoint with the path of a Unix socket made absolute. The path is not changed
    /// if the absolute path would exceed the length limit of socket addresses (unix(7)), or if the
    /// current directory no longer exists.
    #[must_use]
    pub fn absolute(&self) -> Self {
        #[cfg(unix)]
        if let Address::Unix(path) = &self.address {
            match crate::unix::path::from_root(path.as_ref()) {
                Ok(path) if path.as_os_str().len() <= crate::unix::path::MAX_PATH => {
                    return Self { address: Address::Unix(path.into()), ..self.clone() };
                }
                _ => {}
            }
        }
        self.clone()
    }

    /// Returns the text without a colon at its end, for use before another colon: `stdio` instead of
    /// `stdio:`.
    pub fn label(&self) -> String {
        let text = self.to_string();
        text.strip_suffix(':').unwrap_or(&text).to_owned()
    }

    /// Returns the full text, secrets included. It parses as the same endpoint. Do not use it in errors
    /// and logs.
    pub fn exact(&self) -> impl fmt::Display + '_ {
        Exact(self, Secrets::Included)
    }

    /// Returns the explicit framing, if there is one.
    pub fn framing(&self) -> Option<FramingKind> {
        match self.content {
            Content::Messages(framing) => framing,
            Content::Session | Content::SessionFrames => None,
        }
    }

    /// Returns the address, without the framing.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the scheme: the text before the colon, without framing.
    pub fn scheme(&self) -> &str {
        match &self.address {
            Address::Unix(_) | Address::UnixAbstract(_) => "unix",
            Address::Pipe(_) => "pipe",
            Address::Exec(_) => "exec",
            Address::Stdio => "stdio",
            Address::Tcp { .. } => "tcp",
            Address::Memory(_) => "mem",
            Address::Other { scheme, .. } => scheme,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn absolute_expands_relative_unix_paths() {
        let here = std::env::current_dir().unwrap();
        let named = |text: &str| text.parse::<Endpoint>().unwrap().absolute().to_string();
        for front in ["", "resume+", "content-length+"] {
            let expected = format!("{front}{}", Endpoint::unix(here.join("x.sock")));
            assert_eq!(named(&format!("{front}unix:x.sock")), expected);
            // The result must not lead through a directory that may be removed.
            assert_eq!(named(&format!("{front}unix:src/../x.sock")), expected);
        }
        for as_it_is in ["unix:/run/x.sock", "resume+unix:/x", "unix:@name", "tcp:127.0.0.1:7000"] {
            assert_eq!(named(as_it_is), as_it_is);
        }
        let carrier = "resume+unix:x.sock".parse::<Endpoint>().unwrap().carrier();
        let session = Endpoint::unix(here.join("x.sock")).resumable();
        assert_eq!(carrier.absolute().to_string(), session.to_string());
        // The relative path fits in a socket address, but the absolute one does not.
        let long = format!("unix:{}", "x".repeat(crate::unix::path::MAX_PATH));
        assert_eq!(named(&long), long);
    }

    #[test]
    fn carrier_prints_as_its_session() {
        for text in ["resume+unix:/a", "resume+tcp:a:1", "resume+ws://a/ws", "resume+http://a/sse"]
        {
            let endpoint: Endpoint = text.parse().unwrap();
            let carrier = endpoint.carrier();
            assert_eq!(carrier.to_string(), text);
            assert!(endpoint.is_resumable() && !carrier.is_resumable());
            assert!(carrier.is_carrier() && !endpoint.is_carrier());
            assert_eq!(carrier.framing(), None);
            assert_eq!(carrier.clone().resumable(), endpoint);
            let plain = carrier.with_framing(FramingKind::Lines);
            assert_eq!(plain.to_string(), text.replace("resume", "lines"));
        }
    }
}
