//! Converts messages to the data of events and the bodies of POSTs, and back.

use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::*;
use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};
use tieline_proto::ByteSize;
use tieline_proto::json::{self, Limits};
use tieline_proto::jsonrpc::member;
use tieline_proto::sse::{self, Encoder, Event};
use tieline_proto::websocket::{Close, CloseCode};

use super::{BINARY, END};

/// The maximum number of messages in a POST with one message on each line.
pub(crate) const MAX_MESSAGES: usize = 1024;
/// The maximum number of length-prefixed messages in a POST. Most of them have only a few bytes.
const MAX_FRAMES: usize = 16 * 1024;

/// Appends a message as an event, in base64 if it is not UTF-8.
pub(crate) fn event(message: &[u8], id: Option<&str>, out: &mut BytesMut) {
    let event = Encoder::default();
    let event = id.map_or(Ok(event), |id| event.id(id)).unwrap_or(event);
    if event.data(message, out).is_ok() {
        return;
    }
    if let Ok(event) = event.event(BINARY) {
        let _ = event.data(encoded(message).as_bytes(), out);
    }
}

/// Appends a frame of a session as an event.
pub(crate) fn carried(frame: &[u8], out: &mut BytesMut) {
    let _ = Encoder::default().data(encoded(frame).as_bytes(), out);
}

/// Appends the last event, with the close reason.
pub(crate) fn last(close: &Close, id: Option<&str>, out: &mut BytesMut) {
    let Ok(event) = Encoder::default().event(END) else { return };
    let event = id.map_or(Ok(event), |id| event.id(id)).unwrap_or(event);
    let (code, reason) = (close.code.get(), json::escape(&close.text));
    let data = format!("{{\"code\":{code},\"reason\":\"{reason}\"}}");
    let _ = event.data(data.as_bytes(), out);
}

/// Parses the close reason of a last event.
pub(crate) fn why(event: &Event) -> Option<Close> {
    let member = |name| std::str::from_utf8(member(&event.data, name)?).ok();
    let code = member("code")?.parse().ok().and_then(CloseCode::new)?;
    let text = member("reason").and_then(|it| it.strip_prefix('"')?.strip_suffix('"'));
    Some(Close::because(code, json::unescape(text.unwrap_or_default())))
}

fn encoded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE.encode(bytes)
}

/// The URL alphabet, with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Decodes the base64 message of an event. Returns `None` if the message is invalid.
pub(crate) fn decoded(event: &Event) -> Option<Bytes> {
    LENIENT.decode(&event.data).ok().map(Bytes::from)
}

/// Returns the limits of an event for messages of at most `max` bytes.
pub(crate) fn limits(max: ByteSize) -> sse::Limits {
    // The message may be in base64.
    let max_data = ByteSize::new(max.bytes().saturating_add(2) / 3 * 4 + 4);
    sse::Limits { max_data, ..sse::Limits::default() }
}

/// Splits a text body into messages: one JSON value, or one message on each line that is not blank.
pub(crate) fn messages(body: Bytes, limits: Limits) -> Result<Vec<Bytes>, TooMany> {
    let text = trimmed(&body);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if memchr2(b'\n', b'\r', &text).is_none() {
        return Ok(vec![text]);
    }
    if let Ok(line) = json::to_one_line(&text, limits) {
        return Ok(vec![line]);
    }
    let (mut rest, mut messages) = (text, Vec::new());
    while !rest.is_empty() {
        let end = memchr(b'\n', &rest).unwrap_or(rest.len());
        let line = trimmed(&rest.split_to(end));
        rest.advance(rest.len().min(1));
        if !line.is_empty() {
            if messages.len() == MAX_MESSAGES {
                return Err(TooMany);
            }
            messages.push(line);
        }
    }
    Ok(messages)
}

/// The error for a body with more than [`MAX_MESSAGES`] messages.
#[derive(Debug, PartialEq)]
pub(crate) struct TooMany;

/// Splits a body of length-prefixed messages of at most `max` bytes each. Returns `None` if the body is
/// incomplete, a message is too long, or there are too many.
pub(crate) fn framed(body: Bytes, max: ByteSize) -> Option<Vec<Bytes>> {
    let mut rest = body;
    let mut messages = Vec::new();
    while rest.has_remaining() {
        let length = rest.try_get_u32().ok()? as usize;
        if length > rest.len() || length > max.bytes() || messages.len() == MAX_FRAMES {
            return None;
        }
        messages.push(rest.split_to(length));
    }
    Some(messages)
}

/// Removes white space at both ends.
fn trimmed(text: &Bytes) -> Bytes {
    text.slice_ref(text.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tieline_proto::sse::{Item, Parser};

    fn read(bytes: &[u8]) -> Event {
        match Parser::default().parse(&mut &bytes[..]) {
            Some(Item::Event(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_round_trip_through_events() {
        let mut out = BytesMut::new();
        event(b"{\"a\":1}", Some("x.7"), &mut out);
        assert_eq!(out, "id: x.7\ndata: {\"a\":1}\n\n");
        out.clear();
        event(b"[1,\r\n2]", None, &mut out);
        assert_eq!(out, "data: [1,\ndata: 2]\n\n");
        out.clear();
        event(&[0xff, 0, 1, 2], None, &mut out);
        let event = read(&out);
        assert_eq!(
            (&*event.event, decoded(&event).unwrap()),
            (BINARY, Bytes::from(vec![255, 0, 1, 2]))
        );
    }

    #[test]
    fn base64_is_strict_except_that_padding_is_optional() {
        let of = |data: &str| decoded(&Event { data: data.to_owned().into(), ..Event::default() });
        for (data, message) in
            [("-_8=", &[0xfb, 0xff][..]), ("-_8", &[0xfb, 0xff]), ("Zg", b"f"), ("", b"")]
        {
            assert_eq!(of(data).as_deref(), Some(message), "{data}");
        }
        for bad in ["A", "AAAAA", "A===", "A=", "AA=A", "AA A", "AA+A", "AAA==", "=", "AAAA=", "Zh"]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn last_event_carries_the_close_reason() {
        let mut out = BytesMut::new();
        for close in [
            Close::new(CloseCode::NORMAL),
            Close::because(CloseCode::INTERNAL, "a \"quote\"\r\n and more"),
        ] {
            out.clear();
            last(&close, None, &mut out);
            let event = read(&out);
            assert_eq!((&*event.event, why(&event)), (END, Some(close)));
        }
        for data in ["", "{}", "[]", "{\"code\":1}", "{\"code\":\"1000\"}", "{\"code\":1006}"] {
            assert_eq!(why(&Event { data: data.into(), ..Event::default() }), None, "{data}");
        }
    }

    #[test]
    fn body_is_one_json_value_or_lines() {
        let of = |text: &'static str| messages(Bytes::from(text), Limits::default());
        for (text, expected) in [
            ("", &[][..]),
            (" \r\n\t\n", &[]),
            ("{\"a\":1}", &["{\"a\":1}"]),
            ("{\n\"a\":1}\n", &["{ \"a\":1}"]),
            ("{\"a\":1}\r\n\n{\"b\":2}\n", &["{\"a\":1}", "{\"b\":2}"]),
            ("plain words\nof two lines", &["plain words", "of two lines"]),
        ] {
            assert_eq!(
                of(text),
                Ok(expected.iter().map(|it| Bytes::from(*it)).collect()),
                "{text:?}"
            );
        }
        let lines = |count| messages(Bytes::from("x y\n".repeat(count)), Limits::default());
        assert_eq!(lines(MAX_MESSAGES).map(|it| it.len()), Ok(MAX_MESSAGES));
        assert_eq!(lines(MAX_MESSAGES + 1), Err(TooMany));
    }

    #[test]
    fn incomplete_or_oversize_frames_are_refused() {
        let of = |bytes: &[u8]| framed(Bytes::copy_from_slice(bytes), ByteSize::new(3));
        assert_eq!(of(b""), Some(vec![]));
        assert_eq!(of(b"\0\0\0\x03abc\0\0\0\0"), Some(vec!["abc".into(), Bytes::new()]));
        for bad in [&b"\0"[..], b"\0\0\0\x03ab", b"\0\0\0\x04abcd", b"\xff\xff\xff\xff"] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
        let many = |count: usize| framed(Bytes::from(vec![0; 4 * count]), ByteSize::new(3));
        assert!(many(MAX_FRAMES).is_some() && many(MAX_FRAMES + 1).is_none());
    }
}
