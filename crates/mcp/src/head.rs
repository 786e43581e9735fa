//! The parts of an HTTP request's head that MCP uses.

use crate::Refusal;

/// The header with the id of a session, in requests and in the response to `initialize`.
pub const SESSION_ID: &str = "mcp-session-id";
/// The header with the negotiated protocol version.
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// The header with the id of the last event that a client has received.
pub const LAST_EVENT_ID: &str = "last-event-id";

/// The maximum length of a header's value that may be repeated in a response or stored.
pub(crate) const MAX_VALUE: usize = 256;

/// The headers of a request that MCP uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    types: Types,
    session: Option<String>,
    version: Option<String>,
    last_event_id: Option<String>,
}

impl Head {
    /// Reads the headers, given as lower-case names and values.
    ///
    /// # Errors
    /// 400: `Mcp-Session-Id`, `MCP-Protocol-Version` or `Last-Event-ID` is repeated, too long, or not
    /// printable ASCII.
    pub fn of<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, Refusal> {
        let mut head = Self::default();
        for (name, value) in headers {
            let slot = match name {
                SESSION_ID => &mut head.session,
                PROTOCOL_VERSION => &mut head.version,
                LAST_EVENT_ID => &mut head.last_event_id,
                _ => {
                    head.types.read(name, value);
                    continue;
                }
            };
            set_once(slot, name, value)?;
        }
        Ok(head)
    }

    /// Checks that a POST has a JSON body and accepts both kinds of response.
    ///
    /// # Errors
    /// 406: a kind of response is not accepted. 415: the body is not JSON.
    pub fn check_post(&self) -> Result<(), Refusal> {
        if !(self.types.accepts_json && self.types.accepts_events) {
            let text = "the header Accept must name application/json and text/event-stream";
            return Err(Refusal::new(406, text));
        }
        self.types.check_json()
    }

    /// Checks that a GET accepts event streams.
    ///
    /// # Errors
    /// 406: event streams are not accepted.
    pub fn check_get(&self) -> Result<(), Refusal> {
        self.types.check_events()
    }

    /// Returns the session id in the request, if there is one.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Returns the session id in a request that must have one.
    ///
    /// # Errors
    /// 400: the request has no session id.
    pub fn need_session(&self) -> Result<&str, Refusal> {
        self.session().ok_or_else(|| {
            let text = "the header Mcp-Session-Id is missing; a session begins with a POST of an \
                        initialize request";
            Refusal::new(400, text)
        })
    }

    pub(crate) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    pub(crate) fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref().filter(|id| !id.is_empty())
    }
}

/// The media types in the head of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Types {
    accepts_json: bool,
    accepts_events: bool,
    has_json: bool,
}

impl Types {
    /// Reads a header, given as its lower-case name and its value, if it names media types.
    pub(crate) fn read(&mut self, name: &str, value: &[u8]) {
        match name {
            "accept" => {
                for range in value.split(|byte| *byte == b',').map(media_type) {
                    let is = |one: &str| range.eq_ignore_ascii_case(one.as_bytes());
                    self.accepts_json |= is("application/json") || is("application/*") || is("*/*");
                    self.accepts_events |= is("text/event-stream") || is("text/*") || is("*/*");
                }
            }
            "content-type" => {
                self.has_json = media_type(value).eq_ignore_ascii_case(b"application/json");
            }
            _ => {}
        }
    }

    /// Checks that the body is JSON.
    ///
    /// # Errors
    /// 415: it is not.
    pub(crate) fn check_json(self) -> Result<(), Refusal> {
        match self.has_json {
            true => Ok(()),
            false => Err(Refusal::new(415, "the header Content-Type must be application/json")),
        }
    }

    /// Checks that event streams are accepted.
    ///
    /// # Errors
    /// 406: they are not.
    pub(crate) fn check_events(self) -> Result<(), Refusal> {
        match self.accepts_events {
            true => Ok(()),
            false => Err(Refusal::new(406, "the header Accept must name text/event-stream")),
        }
    }
}

/// Stores the value of a header that a request may have once.
///
/// # Errors
/// 400: the header is repeated, too long, or not printable ASCII.
pub(crate) fn set_once(slot: &mut Option<String>, name: &str, value: &[u8]) -> Result<(), Refusal> {
    let value = value.trim_ascii();
    let is_text = value.len() <= MAX_VALUE && value.iter().all(|it| matches!(it, b' '..=b'~'));
    let text = std::str::from_utf8(value).ok().filter(|_| is_text && slot.is_none());
    let Some(text) = text else {
        let problem = "is repeated, too long, or not printable ASCII";
        return Err(Refusal::new(400, format!("the header {name} {problem}")));
    };
    *slot = Some(text.to_owned());
    Ok(())
}

/// Returns a media type without its parameters.
fn media_type(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&'static str, &'static str)]) -> Result<Head, Refusal> {
        Head::of(lines.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn post_must_have_json_and_accept_both_kinds_of_response() {
        const BOTH: &str = "application/json, text/event-stream";
        const JSON: (&str, &str) = ("content-type", "application/json");
        for (lines, status) in [
            (&[("accept", BOTH), JSON][..], None),
            (&[("accept", "Text/Event-Stream;q=0.5 , APPLICATION/JSON;q=1"), JSON], None),
            (&[("accept", "application/json"), ("accept", "text/event-stream"), JSON], None),
            (&[("accept", "*/*"), JSON], None),
            (&[("accept", "application/*, text/*"), JSON], None),
            (&[("accept", BOTH), ("content-type", "Application/JSON; charset=utf-8")], None),
            (&[("accept", "application/json"), JSON], Some(406)),
            (&[("accept", "text/event-stream"), JSON], Some(406)),
            (&[("accept", "application/jsonx, text/event-stream"), JSON], Some(406)),
            (&[("accept", ""), JSON], Some(406)),
            (&[JSON], Some(406)),
            (&[("accept", BOTH)], Some(415)),
            (&[("accept", BOTH), ("content-type", "text/plain")], Some(415)),
            (&[("accept", BOTH), ("content-type", "application/json-rpc")], Some(415)),
        ] {
            let checked = head(lines).unwrap().check_post();
            assert_eq!(checked.err().map(|it| it.status), status, "{lines:?}");
        }
    }

    #[test]
    fn get_must_accept_event_streams() {
        for (accept, status) in [
            ("text/event-stream", None),
            ("*/*", None),
            ("application/json", Some(406)),
            ("", Some(406)),
        ] {
            let checked = head(&[("accept", accept)]).unwrap().check_get();
            assert_eq!(checked.err().map(|it| it.status), status, "{accept}");
        }
    }

    #[test]
    fn repeated_long_and_unprintable_protocol_headers_are_refused() {
        assert_eq!(head(&[(SESSION_ID, " a b ")]).unwrap().session(), Some("a b"));
        assert_eq!(head(&[]).unwrap().need_session().unwrap_err().status, 400);
        assert_eq!(head(&[(LAST_EVENT_ID, "")]).unwrap().last_event_id(), None);
        let long: &'static str = "x".repeat(MAX_VALUE + 1).leak();
        for name in [SESSION_ID, PROTOCOL_VERSION, LAST_EVENT_ID] {
            for lines in [
                &[(name, "a"), (name, "a")][..],
                &[(name, long)],
                &[(name, "é")],
                &[(name, "\t\u{1}")],
            ] {
                let refusal = head(lines).unwrap_err();
                assert_eq!((refusal.status, refusal.code), (400, -31400), "{lines:?}");
                assert!(refusal.text.contains(name), "{refusal:?}");
            }
        }
        assert!(head(&[("x-other", "é"), ("x-other", "b")]).is_ok());
    }
}
