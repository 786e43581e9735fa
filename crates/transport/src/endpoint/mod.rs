//! Endpoints and their text form: `unix:/run/a.sock`, `content-length+exec:pylsp`, `mem:name`.

mod argv;
mod host;
mod percent;
mod pipe;
mod redact;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::str::FromStr;

use tieline_proto::FramingKind;

pub use self::host::is_loopback;
pub use self::redact::redact;
use crate::error::{ErrorKind, Operation, TransportError};

/// The address of the other end of a line, with an optional framing.
///
/// Its text form is `[framing+|resume+]scheme:rest`:
///
/// | text | meaning |
/// |---|---|
/// | `unix:/run/agent.sock` | a Unix socket; `%XX` encodes any byte, and `%` and `?` must be written as `%25` and `%3F` |
/// | `unix:@agent` | an abstract Unix socket (Linux) |
/// | `pipe:agent`, `pipe:\\.\pipe\agent`, `\\.\pipe\agent` | a Windows named pipe; after `pipe:`, `%XX` as above |
/// | `exec:claude --verbose` | a child process; words are separated by blanks, quotes protect blanks, backslashes are literal |
/// | `exec:["claude","-p","a \"b\""]` | the same, exact: a JSON array of strings |
/// | `stdio:` | this process's own stdin and stdout |
/// | `tcp:127.0.0.1:7000`, `tcp:[::1]:7000` | a TCP port |
/// | `mem:name` | a name inside this process |
/// | `content-length+exec:pylsp` | any of these with an explicit framing |
/// | `resume+unix:/run/agent.sock` | a session that survives the loss of its connection; excludes a framing |
///
/// `Display` and `Debug` are for people: they leave out what looks like a secret in a command line or URL, and
/// shorten long arguments. [`exact`](Self::exact) prints the full text, which parses as the same endpoint.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    content: Content,
    address: Address,
}

/// What a line carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Content {
    /// Messages, in the default framing of the transport or in an explicit one.
    Messages(Option<FramingKind>),
    /// A session: messages that survive the loss of a connection.
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
        /// A host name or an address; IPv6 addresses are without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A name inside this process.
    Memory(String),
    /// Any other scheme and the text after its colon.
    Other {
        /// Lower-case letters, digits, `.` and `-`, starting with a letter.
        scheme: String,
        /// Everything after the colon, unchanged.
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

    /// Returns the endpoint of a child process: `program` with `args`.
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

    /// Returns the same address as a session that survives the loss of its connection. Sessions have their
    /// own framing.
    #[must_use]
    pub fn resumable(mut self) -> Self {
        self.content = Content::Session;
        self
    }

    /// Returns true if the endpoint is a session that survives the loss of its connection.
    pub fn is_resumable(&self) -> bool {
        self.content == Content::Session
    }

    /// Returns the endpoint of a session's connections: the same address, for session frames. It prints as
    /// the session's endpoint, so that errors and logs show what the user wrote; parsing that text gives the
    /// session's endpoint.
    #[must_use]
    pub fn carrier(&self) -> Self {
        Self { content: Content::SessionFrames, ..self.clone() }
    }

    /// Returns true if the endpoint is that of a session's connections ([`carrier`](Self::carrier)).
    /// Byte streams carry session frames in the framing `length-prefix`; other schemes by their own means.
    pub fn is_carrier(&self) -> bool {
        self.content == Content::SessionFrames
    }

    /// Returns the same endpoint with the path of a Unix socket made absolute. A path stays as it is if
    /// the absolute one would exceed the length limit of socket addresses (unix(7)), or if the current
    /// directory no longer exists.
    #[must_use]
    pub fn absolute(&self) -> Self {
        #[cfg(unix)]
        if let Address::Unix(path) = &self.address
            && let Ok(path) = crate::unix::from_root(path.as_ref())
            && path.as_os_str().len() <= crate::unix::MAX_PATH
        {
            return Self { address: Address::Unix(path.into()), ..self.clone() };
        }
        self.clone()
    }

    /// Returns the full text, secrets included. It parses as the same endpoint. Not for errors and logs.
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

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Exact(self, Secrets::LeftOut))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", Endpoint::new(self.clone()))
    }
}

#[derive(Clone, Copy)]
enum Secrets {
    Included,
    LeftOut,
}

/// An endpoint's text.
struct Exact<'a>(&'a Endpoint, Secrets);

impl fmt::Display for Exact<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(endpoint, secrets) = self;
        match endpoint.content {
            Content::Session | Content::SessionFrames => f.write_str("resume+")?,
            Content::Messages(Some(framing)) => write!(f, "{framing}+")?,
            Content::Messages(None) => {}
        }
        write!(f, "{}:", endpoint.scheme())?;
        match (&endpoint.address, secrets) {
            // A path that begins with `@` would parse as an abstract name.
            (Address::Unix(path), _) if path.as_encoded_bytes().starts_with(b"@") => {
                f.write_str("%40")?;
                percent::write(f, path.as_encoded_bytes().get(1..).unwrap_or_default())
            }
            (Address::Unix(path), _) => percent::write(f, path.as_encoded_bytes()),
            (Address::UnixAbstract(name), _) => {
                f.write_str("@")?;
                percent::write(f, name.as_encoded_bytes())
            }
            (Address::Pipe(name), _) => pipe::write(f, name),
            (Address::Exec(argv), Secrets::Included) => argv::write(f, argv),
            (Address::Exec(argv), Secrets::LeftOut) => argv::write(f, &redact::argv(argv)),
            (Address::Stdio, _) => Ok(()),
            (Address::Tcp { host, port }, _) if host.contains(':') => write!(f, "[{host}]:{port}"),
            (Address::Tcp { host, port }, _) => write!(f, "{host}:{port}"),
            (Address::Memory(name), _) => f.write_str(name),
            (Address::Other { rest, .. }, Secrets::Included) => f.write_str(rest),
            (Address::Other { rest, .. }, Secrets::LeftOut) => f.write_str(&redact::url(rest)),
        }
    }
}

impl FromStr for Endpoint {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, TransportError> {
        if let Some(name) = pipe::name_in_path(text) {
            return Ok(Self::new(Address::Pipe(name.to_owned())));
        }
        let (head, rest) = text.split_once(':').ok_or_else(|| {
            let error = bad(
                format!("`{}` has no scheme", redact(text)),
                "write it like unix:/run/agent.sock",
            );
            match text.contains('/') {
                true => error.with_hint(format!("if it is a socket, write unix:{text}")),
                false => error,
            }
        })?;
        let (resumes, head) = match head.strip_prefix("resume+") {
            None => (false, head),
            Some(scheme) if scheme.contains('+') => {
                let hint = "leave out the framing after `resume+`";
                return Err(bad("a session has its own framing".into(), hint));
            }
            Some(scheme) => (true, scheme),
        };
        let (framing, scheme) = match head.split_once('+') {
            None => (None, head),
            Some((name, scheme)) => {
                let unknown = |error: tieline_proto::UnknownFraming| {
                    bad(format!("`{name}` before `+`: {error}"), "")
                };
                (Some(name.parse().map_err(unknown)?), scheme)
            }
        };
        let content = if resumes { Content::Session } else { Content::Messages(framing) };
        Ok(Self { content, address: parse_address(scheme, rest)? })
    }
}

fn parse_address(scheme: &str, rest: &str) -> Result<Address, TransportError> {
    match scheme {
        "unix" => parse_unix(rest),
        "pipe" => pipe::parse(rest).map(Address::Pipe),
        "exec" => argv::parse(rest).map(Address::Exec),
        "stdio" if rest.is_empty() => Ok(Address::Stdio),
        "stdio" => Err(bad("`stdio:` takes nothing after the colon".into(), "write stdio:")),
        "tcp" => parse_tcp(rest),
        "mem" if rest.is_empty() => {
            Err(bad("`mem:` needs a name".into(), "write it like mem:agent"))
        }
        "mem" => Ok(Address::Memory(rest.to_owned())),
        _ if is_scheme(scheme) => {
            Ok(Address::Other { scheme: scheme.to_owned(), rest: rest.to_owned() })
        }
        _ => Err(bad(
            format!("`{scheme}` is not a valid scheme name"),
            "write it like unix:/run/agent.sock",
        )),
    }
}

fn parse_unix(rest: &str) -> Result<Address, TransportError> {
    if rest.contains('?') {
        return Err(bad(
            "a unix endpoint takes no options after `?`".into(),
            "if the path has a question mark, write it as %3F; for a session, write resume+unix:PATH",
        ));
    }
    let (name, is_abstract) = rest.strip_prefix('@').map_or((rest, false), |name| (name, true));
    let name = percent::decode(name)?;
    if name.is_empty() {
        return Err(bad("`unix:` needs a path".into(), "write it like unix:/run/agent.sock"));
    }
    if !is_abstract && name.as_encoded_bytes().contains(&0) {
        return Err(bad("a path cannot contain a NUL byte".into(), ""));
    }
    Ok(if is_abstract { Address::UnixAbstract(name) } else { Address::Unix(name) })
}

fn parse_tcp(rest: &str) -> Result<Address, TransportError> {
    let malformed = || {
        let hint = "write it like tcp:127.0.0.1:7000 or tcp:[::1]:7000";
        bad(format!("`{rest}` is not a host and a port"), hint)
    };
    let (host, port) = rest.rsplit_once(':').ok_or_else(malformed)?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !"[]/?#@%".contains(c);
    let host = match bracketed {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
        None if !host.contains(':') => host,
        _ => return Err(malformed()),
    };
    // `parse` alone would accept a sign.
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if is_number && !host.is_empty() && host.chars().all(is_plain) => {
            Ok(Address::Tcp { host: host.to_owned(), port })
        }
        _ => Err(malformed()),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
}

fn bad(problem: String, hint: &'static str) -> TransportError {
    let error = TransportError::new(ErrorKind::InvalidEndpoint { problem }, Operation::Parse);
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn argv(words: &[&str]) -> Address {
        Address::Exec(words.iter().map(Into::into).collect())
    }

    #[cfg(unix)]
    #[test]
    fn absolute_expands_relative_unix_paths() {
        let here = std::env::current_dir().unwrap();
        let named = |text: &str| text.parse::<Endpoint>().unwrap().absolute().to_string();
        for front in ["", "resume+", "content-length+"] {
            let expected = format!("{front}{}", Endpoint::unix(here.join("x.sock")));
            assert_eq!(named(&format!("{front}unix:x.sock")), expected);
            // Not through a directory that may be removed.
            assert_eq!(named(&format!("{front}unix:src/../x.sock")), expected);
        }
        for as_it_is in ["unix:/run/x.sock", "resume+unix:/x", "unix:@name", "tcp:127.0.0.1:7000"] {
            assert_eq!(named(as_it_is), as_it_is);
        }
        let carrier = "resume+unix:x.sock".parse::<Endpoint>().unwrap().carrier();
        let session = Endpoint::unix(here.join("x.sock")).resumable();
        assert_eq!(carrier.absolute().to_string(), session.to_string());
        // The relative path fits in a socket address, the absolute one does not.
        let long = format!("unix:{}", "x".repeat(crate::unix::MAX_PATH));
        assert_eq!(named(&long), long);
    }

    #[test]
    fn parses_endpoints() {
        for (text, address) in [
            ("unix:/run/a.sock", Address::Unix("/run/a.sock".into())),
            ("unix:a b", Address::Unix("a b".into())),
            ("unix:/a%20b%25%3F", Address::Unix("/a b%?".into())),
            ("unix:@agent", Address::UnixAbstract("agent".into())),
            ("unix:%40agent", Address::Unix("@agent".into())),
            ("pipe:agent", Address::Pipe("agent".into())),
            (r"pipe:\\.\pipe\a b", Address::Pipe("a b".into())),
            (r"\\.\pipe\a:b%?", Address::Pipe("a:b%?".into())),
            ("pipe:a%3Fb%25", Address::Pipe("a?b%".into())),
            ("exec:claude --verbose", argv(&["claude", "--verbose"])),
            ("exec: a\t'b c' \"d 'e'\" f''g", argv(&["a", "b c", "d 'e'", "fg"])),
            (r"exec:C:\bin\a.exe \x", argv(&[r"C:\bin\a.exe", r"\x"])),
            ("exec:a ''", argv(&["a", ""])),
            (r#"exec:["a b","\"c\"",""]"#, argv(&["a b", "\"c\"", ""])),
            ("stdio:", Address::Stdio),
            ("tcp:localhost:80", Address::Tcp { host: "localhost".into(), port: 80 }),
            ("tcp:[::1]:0", Address::Tcp { host: "::1".into(), port: 0 }),
            ("mem:a:b", Address::Memory("a:b".into())),
            ("ws://host/x?y", Address::Other { scheme: "ws".into(), rest: "//host/x?y".into() }),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap(), Endpoint::new(address), "{text}");
        }
        let framed: Endpoint = "content-length+exec:pylsp".parse().unwrap();
        assert_eq!(framed.framing(), Some(FramingKind::ContentLength));
        assert_eq!(framed.address(), &argv(&["pylsp"]));
    }

    #[test]
    fn parse_errors_say_why() {
        for (text, says) in [
            ("/run/a.sock", "no scheme"),
            ("", "no scheme"),
            ("unix:", "needs a path"),
            ("unix:@", "needs a path"),
            ("unix:/a?resume", "no options"),
            ("resume+lines+unix:/a", "its own framing"),
            ("lines+resume+unix:/a", "not a valid scheme name"),
            ("unix:/a%", "two hexadecimal digits"),
            ("unix:/a%zz", "two hexadecimal digits"),
            ("unix:/a%00", "NUL"),
            ("pipe:", "needs a name"),
            (r"pipe:\\.\pipe\", "needs a name"),
            (r"\\.\pipe\", "no scheme"),
            (r"pipe:\\server\pipe\a", "not a pipe on this machine"),
            ("pipe:a?resume", "no options"),
            ("pipe:a%FF", "not UTF-8"),
            ("exec:", "needs a program"),
            ("exec:   ", "needs a program"),
            ("exec:''", "needs a program"),
            ("exec:[]", "needs a program"),
            ("exec:[1]", "array of strings"),
            ("exec:[\"a\"", "array of strings"),
            ("exec:a 'b", "quote"),
            ("exec:a\0b", "NUL"),
            ("stdio:x", "takes nothing after the colon"),
            ("tcp:", "not a host and a port"),
            ("tcp:7000", "not a host and a port"),
            ("tcp::7000", "not a host and a port"),
            ("tcp:a:+1", "not a host and a port"),
            ("tcp:a:65536", "not a host and a port"),
            ("tcp:::1:80", "not a host and a port"),
            ("tcp:[a]:80", "not a host and a port"),
            ("tcp:a b:80", "not a host and a port"),
            ("mem:", "needs a name"),
            ("gzip+unix:/a", "no such framing"),
            ("UNIX:/a", "not a valid scheme name"),
            ("+unix:/a", "no such framing"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    fn any_address() -> impl Strategy<Value = Address> {
        let name = "[ -~é\\t]{1,12}";
        prop_oneof![
            name.prop_map(|path| Address::Unix(path.into())),
            name.prop_map(|name| Address::UnixAbstract(name.into())),
            name.prop_map(Address::Pipe),
            ("[a-zé\\[\"' \\\\]{1,8}", proptest::collection::vec("[ -~é\\n\\t]{0,8}", 0..4))
                .prop_map(|(program, args)| {
                    Address::Exec(
                        std::iter::once(program).chain(args).map(OsString::from).collect(),
                    )
                }),
            Just(Address::Stdio),
            ("[a-z0-9.-]{1,9}|::1|fe80::2", any::<u16>())
                .prop_map(|(host, port)| Address::Tcp { host, port }),
            "[ -~]{1,12}".prop_map(Address::Memory),
            ("x-[a-z0-9.-]{0,6}", "[ -~]{0,12}")
                .prop_map(|(scheme, rest)| Address::Other { scheme, rest }),
        ]
    }

    fn any_framing() -> impl Strategy<Value = Option<FramingKind>> {
        proptest::option::of(proptest::sample::select(FramingKind::ALL.to_vec()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn printing_and_parsing_are_inverse(
            address in any_address(),
            framing in any_framing(),
            resumes in any::<bool>(),
        ) {
            let content = if resumes { Content::Session } else { Content::Messages(framing) };
            let endpoint = Endpoint { content, address };
            let text = endpoint.exact().to_string();
            prop_assert_eq!(text.parse::<Endpoint>().unwrap(), endpoint, "{}", text);
        }

        #[test]
        fn parsed_text_prints_as_the_same_endpoint(text in "(lines\\+|resume\\+)?(unix|pipe|exec|mem|a):[ -~é]{0,16}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.exact().to_string().parse::<Endpoint>().unwrap(), endpoint);
            }
        }
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

    #[cfg(unix)]
    #[test]
    fn path_of_arbitrary_bytes_round_trips() {
        use std::os::unix::ffi::OsStringExt;
        let path = OsString::from_vec((1..=255).collect());
        let endpoint = Endpoint::unix(path);
        assert_eq!(endpoint.exact().to_string().parse::<Endpoint>().unwrap(), endpoint);
    }
}
