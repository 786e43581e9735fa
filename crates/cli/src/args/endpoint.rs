//! Parsers of endpoints, whose errors say what to write instead.

use tieline_http::WebAddress;
use tieline_transport::{Address, Endpoint, TransportError};

use crate::names::{self, Name};

/// The schemes that are followed by a host and a port.
const WITH_PORT: &[&str] = &["tcp", "ws", "wss", "http", "https", "mcp+http", "mcp+https"];

/// The other schemes.
const WITHOUT_PORT: &[&str] = &[
    "unix",
    "pipe",
    "exec",
    "stdio",
    "mem",
    "ws-unix",
    "http-unix",
    "mcp+http-unix",
    "ws-pipe",
    "http-pipe",
    "mcp+http-pipe",
];

/// Parses an endpoint to connect to, or the name of a server.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    parse(&names::expanded(text), Side::Client)
}

/// Parses an endpoint to listen on.
pub(super) fn listener(text: &str) -> Result<Endpoint, String> {
    if let (true, Ok(port)) = (is_number(text), text.parse::<u16>()) {
        return Err(without_scheme(text, &format!(":{port}"), Side::Server));
    }
    if Name::new(text).is_some() && !is_scheme(text) {
        return Err(format!(
            "`{text}` is not an endpoint. To listen as a server with this name, use --name {text}"
        ));
    }
    parse(text, Side::Server)
}

/// Parses an endpoint to listen on, or a name for the listener.
pub(super) fn named_listener(text: &str) -> Result<Endpoint, String> {
    match Name::new(text).filter(|_| !is_scheme(text)) {
        Some(_) => Ok(Name::to_serve(text)?.endpoint()),
        None => listener(text),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Client,
    Server,
}

fn parse(text: &str, side: Side) -> Result<Endpoint, String> {
    if let Some(port) = excessive_port(text) {
        return Err(format!("{port} is not a port; the largest is 65535"));
    }
    if let Some(problem) = missing_scheme(text, side) {
        return Err(problem);
    }
    let endpoint: Endpoint = text.parse().map_err(explained)?;
    let scheme = endpoint.scheme().trim_start_matches("mcp+");
    if ["ws", "wss", "http", "https"].contains(&scheme)
        || ["ws-unix", "http-unix", "ws-pipe", "http-pipe"].contains(&scheme)
    {
        WebAddress::of(&endpoint).map_err(explained)?;
    }
    match endpoint.address() {
        Address::Memory(_) => Err("`mem:` connects parts of one process; use unix: or tcp:".into()),
        _ => Ok(endpoint),
    }
}

fn explained(error: TransportError) -> String {
    match error.hint() {
        Some(hint) => format!("{}; {hint}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Returns the port after a host if the number is too large for a port.
fn excessive_port(text: &str) -> Option<&str> {
    let (head, port) = host_and_port(text)?;
    (port.parse::<u16>().is_err() && !is_without_port(head)).then_some(port)
}

/// Returns the error for `HOST:PORT` or `SCHEME:PORT`, which says what to write instead.
fn missing_scheme(text: &str, side: Side) -> Option<String> {
    let (head, port) = host_and_port(text)?;
    if WITH_PORT.contains(&head) {
        let slashes = if head == "tcp" { "" } else { "//" };
        return Some(format!(
            "`{text}` has no host; for this machine write {head}:{slashes}127.0.0.1:{port}"
        ));
    }
    let is_address = head.starts_with('[') && head.ends_with(']');
    let is_name = !head.contains([':', '+', '/', '@', ' ']) && !is_without_port(head);
    (is_address || is_name).then(|| without_scheme(text, text, side))
}

fn without_scheme(text: &str, address: &str, side: Side) -> String {
    let host = if address.starts_with(':') { "127.0.0.1" } else { "" };
    let address = address.split('/').next().unwrap_or_default();
    let web = match side {
        Side::Server => format!("http://{host}{address}"),
        Side::Client => format!("ws://{host}{address}/ws"),
    };
    format!("`{text}` has no scheme; write {web}, or tcp:{host}{address} without a web server")
}

/// Splits text before its path at the last colon, if a number follows the colon.
fn host_and_port(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('\\') {
        return None;
    }
    let end = match text.find("://") {
        Some(at) => text.get(at + 3..)?.find('/').map_or(text.len(), |path| at + 3 + path),
        None => text.find('/').unwrap_or(text.len()),
    };
    let (head, port) = text.get(..end)?.rsplit_once(':')?;
    is_number(port).then_some((head, port))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns true if the text before a colon begins with a scheme that has no port.
fn is_without_port(head: &str) -> bool {
    let scheme = head.split(':').next().unwrap_or_default();
    WITHOUT_PORT.contains(&scheme.rsplit('+').next().unwrap_or_default())
}

/// Returns whether a word is the scheme of an endpoint.
pub(crate) fn is_scheme(word: &str) -> bool {
    WITH_PORT.contains(&word) || WITHOUT_PORT.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_accepted() {
        for text in [
            "unix:8080",
            "unix:/a:80999",
            "unix:@a:1",
            "exec:ssh a:80999",
            "content-length+exec:x a:1",
            "resume+unix:a:1",
            "stdio:",
            "tcp:127.0.0.1:7000",
            "tcp:[::1]:7000",
            "lines+tcp:localhost:7000",
            "ws://127.0.0.1:8080/a:99999",
            "wss://example.org",
            "http-unix:/a.sock:/sse",
            "pipe:a:80",
            r"\\.\pipe\a:80",
            "morse:a",
        ] {
            let parsed = endpoint(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed, text.parse().unwrap());
            assert_eq!(listener(text), Ok(parsed), "{text}");
        }
    }

    #[test]
    fn errors_for_invalid_endpoints_say_what_to_write() {
        for (text, client, server) in [
            (
                "localhost:8080",
                "ws://localhost:8080/ws, or tcp:localhost:8080 ",
                "http://localhost:8080, or",
            ),
            (
                ":8080",
                "ws://127.0.0.1:8080/ws, or tcp:127.0.0.1:8080 ",
                "http://127.0.0.1:8080, or",
            ),
            ("[::1]:8080", "ws://[::1]:8080/ws, or tcp:[::1]:8080 ", "http://[::1]:8080, or"),
            ("example.org:443/ws", "ws://example.org:443/ws, or", "http://example.org:443, or"),
            ("tcp:8080", "write tcp:127.0.0.1:8080", "write tcp:127.0.0.1:8080"),
            ("http:8080", "write http://127.0.0.1:8080", "write http://127.0.0.1:8080"),
            ("localhost:80999", "80999 is not a port", "the largest is 65535"),
            ("tcp:127.0.0.1:80999", "80999 is not a port", "the largest is 65535"),
            ("tcp:[::1]:80999", "80999 is not a port", "the largest is 65535"),
            ("ws://a:80999/ws", "80999 is not a port", "the largest is 65535"),
            ("resume+http://a:80999", "80999 is not a port", "the largest is 65535"),
            ("http://", "no valid host and port", "no valid host and port"),
            ("a.sock", "write it like unix:", "write it like unix:"),
            ("./a", "write unix:./a", "write unix:./a"),
            ("", "has no scheme", "has no scheme"),
            ("mem:a", "use unix: or tcp:", "use unix: or tcp:"),
        ] {
            let error = endpoint(text).expect_err(text);
            assert!(error.contains(client), "{text}: {error}");
            let error = listener(text).expect_err(text);
            assert!(error.contains(server), "{text}: {error}");
        }
    }

    #[test]
    fn only_endpoints_to_connect_to_can_be_names() {
        let agent = Name::new("agent").unwrap().endpoint();
        assert_eq!(endpoint("agent"), Ok(agent.clone()));
        assert_eq!(endpoint("resume+agent"), Ok(agent.clone().resumable()));
        assert_eq!(named_listener("agent"), Ok(agent));
        assert!(listener("agent").unwrap_err().contains("use --name agent"));
        assert!(named_listener("bus").unwrap_err().contains("reserved"));
        assert!(endpoint("bus").is_ok() && endpoint("8080").is_ok());
        assert!(listener("8080").unwrap_err().contains("write http://127.0.0.1:8080, or"));
        for (text, says) in [("unix", "write it like unix:"), ("no name", "has no scheme")] {
            for parse in [listener, named_listener] {
                let error = parse(text).expect_err(text);
                assert!(error.contains(says), "{text}: {error}");
            }
        }
    }
}
