//! A message by itself: outside the batch that it arrived in, and on one line.

use bytes::Bytes;
use memchr::memchr2;

use super::Message;
use super::dialect::Dialect;
use super::write::{write_notification, write_request, write_response};
use crate::json::{Limits, to_one_line};

impl Message {
    /// Returns the message by itself and without line breaks, for programs that read messages by lines and know no
    /// batches. `is_in_batch`: it is part of a batch, and is written anew in `dialect`. `limits`
    /// are those that it was classified with. A batch and an invalid message are empty.
    pub fn alone(&self, dialect: &Dialect, is_in_batch: bool, limits: Limits) -> Bytes {
        let text: Bytes = match self {
            Self::Request(it) if is_in_batch => {
                write_request(dialect, it.id(), &it.method(), it.params()).into()
            }
            Self::Notification(it) if is_in_batch => {
                write_notification(dialect, &it.method(), it.params()).into()
            }
            Self::Response(it) if is_in_batch => {
                write_response(dialect, it.id(), it.outcome()).into()
            }
            Self::Request(it) => it.message().clone(),
            Self::Notification(it) => it.message().clone(),
            Self::Response(it) => it.message.clone(),
            Self::Batch(_) | Self::Invalid(_) => return Bytes::new(),
        };
        match memchr2(b'\n', b'\r', &text) {
            None => text,
            Some(_) => to_one_line(&text, limits).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonrpc::classify;

    #[test]
    fn message_is_taken_out_of_its_batch_and_put_on_one_line() {
        let dialect = Dialect::MCP_2025_03_26;
        let texts = [
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\n\"params\":[\r\n]}",
            "{\"jsonrpc\":\"2.0\",\"method\":\"b\",\"params\":{ \"c\":\n1}}",
            "{\"jsonrpc\":\"2.0\",\"id\":2,\n\"result\":null}",
            "{\"jsonrpc\":\"2.0\",\"id\":3,\"error\":{\"code\":1,\n\"message\":\"x\"}}",
        ];
        let expected = texts.map(|text| to_one_line(text.as_bytes(), Limits::default()).unwrap());
        for (text, expected) in texts.iter().zip(&expected) {
            let message = classify((*text).into(), &dialect, Limits::default());
            assert_eq!(message.alone(&dialect, false, Limits::default()), expected, "{text}");
        }
        let batch = format!("[{}]", texts.join(",\n"));
        let Message::Batch(parts) = classify(batch.into(), &dialect, Limits::default()) else {
            panic!("not a batch")
        };
        for (part, expected) in parts.iter().zip(&expected) {
            let alone = part.alone(&dialect, true, Limits::default());
            let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
            assert_eq!(value(&alone), value(expected));
            assert!(!alone.contains(&b'\n'));
        }
        let nothing = classify("[]".into(), &dialect, Limits::default());
        assert_eq!(nothing.alone(&dialect, false, Limits::default()), Bytes::new());
    }
}
