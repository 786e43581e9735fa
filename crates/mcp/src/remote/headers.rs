//! The headers of version 2026-07-28, which repeat parts of the message.

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Dialect, Message, classify, locate, member};

use crate::PROTOCOL_VERSION;
use crate::modern::{METHOD, NAME, ToolHeaders, base64_of, meta, named_by};
use crate::text::string;

/// Returns the headers for a message.
pub(super) fn of(message: &Bytes, tools: &ToolHeaders) -> Vec<(String, String)> {
    let message = classify(message.clone(), &Dialect::MCP, Limits::default());
    let (method, params) = match &message {
        Message::Request(request) => (request.method(), request.params()),
        Message::Notification(notification) => (notification.method(), notification.params()),
        _ => return Vec::new(),
    };
    let params = params.unwrap_or_default();
    let version = locate(params, &["_meta", meta::PROTOCOL_VERSION]).ok().flatten();
    let version = version.and_then(string).unwrap_or_default();
    let mut headers = vec![
        (PROTOCOL_VERSION.to_owned(), encoded(&version)),
        (METHOD.to_owned(), encoded(&method)),
    ];
    let name = named_by(&method).and_then(|name| member(params, name)).and_then(string);
    headers.extend(name.as_ref().map(|name| (NAME.to_owned(), encoded(name))));
    if let (Some(name), "tools/call") = (&name, &*method) {
        let repeated = tools.repeated(name, params);
        headers.extend(repeated.into_iter().map(|(header, value)| (header, encoded(&value))));
    }
    headers
}

/// Returns whether a text can be the value of a header as it is.
pub(super) fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim_matches(' ') == text
}

/// Returns the value of a header: the text itself, or its base64 if it could not be read back otherwise.
fn encoded(text: &str) -> String {
    let looks_encoded = text.starts_with("=?base64?") && text.ends_with("?=");
    match is_plain(text) && !looks_encoded {
        true => text.to_owned(),
        false => format!("=?base64?{}?=", base64_of(text.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_that_could_not_be_read_back_are_in_base64() {
        for (text, expected) in [
            ("plain text", "plain text"),
            ("", ""),
            ("é", "=?base64?w6k=?="),
            (" a ", "=?base64?IGEg?="),
            ("a\tb", "=?base64?YQli?="),
            ("a\nb", "=?base64?YQpi?="),
            ("é!", "=?base64?w6kh?="),
            ("éab", "=?base64?w6lhYg==?="),
            ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?="),
            ("=?base64?x", "=?base64?x"),
        ] {
            assert_eq!(encoded(text), expected, "{text:?}");
        }
    }
}
