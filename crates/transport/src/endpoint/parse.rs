//! Parsing an endpoint's text.

use std::str::FromStr;

use super::invalid::invalid;
use super::{Address, Content, Endpoint, argv, percent, pipe, redact};
use crate::error::TransportError;

impl FromStr for Endpoint {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, TransportError> {
        if let Some(name) = pipe::name_in_path(text) {
            return Ok(Self::new(Address::Pipe(name.to_owned())));
        }
        let (head, rest) = text.split_once(':').ok_or_else(|| {
            let error = invalid(
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
                return Err(invalid("a session has its own framing".into(), hint));
            }
            Some(scheme) => (true, scheme),
        };
        let (framing, scheme) = match head.split_once('+') {
            None => (None, head),
            Some(("mcp", "http" | "https" | "http-unix" | "http-pipe")) => (None, head),
            Some((name, scheme)) => {
                let unknown = |error: tieline_proto::UnknownFraming| {
                    invalid(format!("`{name}` before `+`: {error}"), "")
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
        "stdio" => Err(invalid("`stdio:` takes nothing after the colon".into(), "write stdio:")),
        "tcp" => parse_tcp(rest),
        "mem" if rest.is_empty() => {
            Err(invalid("`mem:` needs a name".into(), "write it like mem:agent"))
        }
        "mem" => Ok(Address::Memory(rest.to_owned())),
        _ if is_scheme(scheme.strip_prefix("mcp+").unwrap_or(scheme)) => {
            Ok(Address::Other { scheme: scheme.to_owned(), rest: rest.to_owned() })
        }
        _ => Err(invalid(
            format!("`{scheme}` is not a valid scheme name"),
            "write it like unix:/run/agent.sock",
        )),
    }
}

fn parse_unix(rest: &str) -> Result<Address, TransportError> {
    if rest.contains('?') {
        return Err(invalid(
            "a unix endpoint takes no options after `?`".into(),
            "if the path has a question mark, write it as %3F; for a session, write resume+unix:PATH",
        ));
    }
    let (name, is_abstract) = rest.strip_prefix('@').map_or((rest, false), |name| (name, true));
    let name = percent::decode(name)?;
    if name.is_empty() {
        return Err(invalid("`unix:` needs a path".into(), "write it like unix:/run/agent.sock"));
    }
    if !is_abstract && name.as_encoded_bytes().contains(&0) {
        return Err(invalid("a path cannot contain a NUL byte".into(), ""));
    }
    Ok(if is_abstract { Address::UnixAbstract(name) } else { Address::Unix(name) })
}

fn parse_tcp(rest: &str) -> Result<Address, TransportError> {
    let malformed = || {
        let hint = "write it like tcp:127.0.0.1:7000 or tcp:[::1]:7000";
        invalid(format!("`{rest}` is not a host and a port"), hint)
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

#[cfg(test)]
mod tests {
    use tieline_proto::FramingKind;

    use super::*;

    fn argv(words: &[&str]) -> Address {
        Address::Exec(words.iter().map(Into::into).collect())
    }

    #[test]
    fn endpoints_are_parsed() {
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
            ("mcp+http://a/", Address::Other { scheme: "mcp+http".into(), rest: "//a/".into() }),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap(), Endpoint::new(address), "{text}");
        }
        let framed: Endpoint = "content-length+exec:pylsp".parse().unwrap();
        assert_eq!(framed.framing(), Some(FramingKind::ContentLength));
        assert_eq!(framed.address(), &argv(&["pylsp"]));
    }

    #[test]
    fn parse_errors_state_the_reason() {
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
}
