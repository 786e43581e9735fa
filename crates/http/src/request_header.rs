//! Headers and credentials that the user of a client adds to its requests.

use std::fmt;
use std::str::FromStr;

use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tieline_transport::{ConfigError, is_secret_name};

/// The maximum length of a header's value, and of a user name with its password.
const MAX_VALUE: usize = 8 * 1024;

/// Headers that cannot be set, and the reasons. A name that ends with `-` stands for all names that
/// begin with it.
const RESERVED: [(&[&str], &str); 5] = [
    (&["host"], "not set Host, which follows from the endpoint"),
    (
        &[
            "connection",
            "content-length",
            "expect",
            "keep-alive",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ],
        "not set Connection, Content-Length, Expect, Keep-Alive, TE, Trailer, Transfer-Encoding or Upgrade, \
         which belong to the connection",
    ),
    (
        &["sec-websocket-"],
        "not set Sec-WebSocket-…, which belong to the handshake; for a subprotocol, use --subprotocol",
    ),
    (&["proxy-"], "not set Proxy-…; put the user name and password for a proxy into its URL"),
    (
        &[
            "accept",
            "accept-encoding",
            "cache-control",
            "content-encoding",
            "content-type",
            "last-event-id",
            "tieline-",
        ],
        "not set Accept, Accept-Encoding, Cache-Control, Content-Encoding, Content-Type, Last-Event-ID or \
         Tieline-…, which tieline sets itself",
    ),
];

/// A header that a client adds to each of its requests, such as `X-Api-Key`. The `Debug` output hides
/// the value.
#[derive(Clone)]
pub struct RequestHeader {
    name: HeaderName,
    value: HeaderValue,
    is_credential: bool,
}

impl RequestHeader {
    /// Creates a header. Spaces around the value are removed.
    ///
    /// The header is marked as a [credential](Self::is_credential) if its name suggests one.
    ///
    /// # Errors
    /// The name is not valid, or is reserved for HTTP or tieline; or the value has control characters or
    /// more than 8 KiB.
    pub fn new(name: &str, value: &str) -> Result<Self, ConfigError> {
        let wrong = |must| ConfigError { field: "header", must };
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| wrong("be NAME: VALUE, with a NAME of letters, digits and -"))?;
        if let Some(must) = reserved(name.as_str()) {
            return Err(wrong(must));
        }
        let value = value.trim_matches([' ', '\t']);
        if value.len() > MAX_VALUE {
            return Err(wrong("have a value of at most 8 KiB"));
        }
        let mut value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| wrong("have a value without control characters and line breaks"))?;
        value.set_sensitive(true);
        let is_credential = is_secret_name(name.as_str());
        Ok(Self { name, value, is_credential })
    }

    /// Marks the header as a [credential](Self::is_credential).
    #[must_use]
    pub fn credential(mut self) -> Self {
        self.is_credential = true;
        self
    }

    /// Returns whether the header is a secret, which is not sent to other machines without TLS.
    pub fn is_credential(&self) -> bool {
        self.is_credential
    }

    /// Returns whether the header is `Authorization`, which can be sent only once.
    pub fn is_authorization(&self) -> bool {
        self.name == AUTHORIZATION
    }

    pub(crate) fn name(&self) -> &HeaderName {
        &self.name
    }

    pub(crate) fn value(&self) -> &HeaderValue {
        &self.value
    }
}

/// Parses `NAME: VALUE`.
impl FromStr for RequestHeader {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let must = "be NAME: VALUE, for example 'X-Api-Key: …'";
        let (name, value) = text.split_once(':').ok_or(ConfigError { field: "header", must })?;
        Self::new(name, value)
    }
}

impl fmt::Debug for RequestHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestHeader({}: …)", self.name)
    }
}

fn reserved(name: &str) -> Option<&'static str> {
    let matches = |it: &&str| name == *it || it.ends_with('-') && name.starts_with(*it);
    RESERVED.iter().find(|(names, _)| names.iter().any(matches)).map(|(_, must)| *must)
}

/// A user name and a password, sent as `Authorization: Basic` (RFC 7617) in UTF-8. The `Debug` output
/// hides both.
#[derive(Clone)]
pub struct BasicAuth(HeaderValue);

impl BasicAuth {
    /// Creates credentials from a user name and a password.
    ///
    /// # Errors
    /// One of them has control characters, the user name is empty or has a colon, or both are longer than
    /// 6 KiB together.
    pub fn new(user: &str, password: &str) -> Result<Self, ConfigError> {
        let wrong = |field, must| ConfigError { field, must };
        if user.is_empty() || user.contains(':') || user.contains(char::is_control) {
            return Err(wrong("user", "be a name without colons and control characters"));
        }
        if password.contains(char::is_control) {
            return Err(wrong("password", "have no control characters"));
        }
        let value = basic(format!("{user}:{password}").as_bytes());
        let value = value.filter(|value| value.len() <= MAX_VALUE);
        value.map(Self).ok_or(wrong("password", "have, with the user name, at most 6 KiB"))
    }

    pub(crate) fn value(&self) -> &HeaderValue {
        &self.0
    }
}

/// Returns the header value that authenticates with `USER:PASSWORD` (RFC 7617).
pub(crate) fn basic(credentials: &[u8]) -> Option<HeaderValue> {
    let text = format!("Basic {}", BASE64_STANDARD.encode(credentials));
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BasicAuth(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_and_malformed_headers_are_refused() {
        for (text, says) in [
            ("Host: a", "follows from the endpoint"),
            ("hOsT: a", "follows from the endpoint"),
            ("Upgrade: a", "belong to the connection"),
            ("Connection: a", "belong to the connection"),
            ("Content-Length: 1", "belong to the connection"),
            ("Transfer-Encoding: chunked", "belong to the connection"),
            ("Sec-WebSocket-Key: a", "--subprotocol"),
            ("sec-websocket-protocol: mcp", "--subprotocol"),
            ("Proxy-Authorization: a", "into its URL"),
            ("Accept: a", "sets itself"),
            ("Content-Type: a", "sets itself"),
            ("Tieline-Sequence: 1", "sets itself"),
            ("X-Api-Key", "be NAME: VALUE"),
            (": a", "be NAME: VALUE"),
            ("X Api: a", "be NAME: VALUE"),
            ("X-Api : a", "be NAME: VALUE"),
            ("X-Ü: a", "be NAME: VALUE"),
            ("X: a\r\nY: b", "control characters"),
            ("X: a\nb", "control characters"),
            ("X: a\0b", "control characters"),
        ] {
            let error = text.parse::<RequestHeader>().unwrap_err();
            assert!(error.must.contains(says), "{text:?}: {error}");
        }
        let long = "a".repeat(MAX_VALUE);
        assert!(RequestHeader::new("X", &long).is_ok());
        assert!(RequestHeader::new("X", &format!("{long}a")).is_err());
    }

    #[test]
    fn other_headers_are_accepted_and_hidden() {
        for (text, name, value, is_credential) in [
            ("X-Trace:abc", "x-trace", "abc", false),
            ("X-Trace: \tabc d ", "x-trace", "abc d", false),
            ("X-Empty:", "x-empty", "", false),
            ("Origin: https://abc", "origin", "https://abc", false),
            ("User-Agent: ü: abc", "user-agent", "ü: abc", false),
            ("Authorization: Bearer abc", "authorization", "Bearer abc", true),
            ("Cookie: a=abc", "cookie", "a=abc", true),
            ("X-Api-Key: abc", "x-api-key", "abc", true),
            ("Accepting: abc", "accepting", "abc", false),
        ] {
            let header: RequestHeader = text.parse().unwrap();
            assert_eq!(
                (header.name().as_str(), header.value().as_bytes()),
                (name, value.as_bytes())
            );
            assert_eq!(header.is_credential(), is_credential, "{text}");
            assert!(header.clone().credential().is_credential());
            let shown = format!("{header:?} {:?}", header.value());
            assert!(!shown.contains("abc") && shown.contains(name), "{shown}");
        }
    }

    #[test]
    fn user_names_and_passwords_are_encoded_as_in_rfc_7617() {
        for (user, password, value) in [
            ("Aladdin", "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("test", "123£", "Basic dGVzdDoxMjPCow=="),
            ("a", "", "Basic YTo="),
            ("a", "b:c", "Basic YTpiOmM="),
        ] {
            let basic = BasicAuth::new(user, password).unwrap();
            assert_eq!(basic.value().as_bytes(), value.as_bytes());
            assert_eq!(format!("{basic:?}"), "BasicAuth(…)");
        }
        for (user, password, field) in [
            ("", "x", "user"),
            ("a:b", "x", "user"),
            ("a\n", "x", "user"),
            ("a", "x\r\nHost: b", "password"),
            ("a", &"x".repeat(MAX_VALUE), "password"),
        ] {
            assert_eq!(BasicAuth::new(user, password).unwrap_err().field, field);
        }
    }
}
