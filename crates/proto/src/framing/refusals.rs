//! The bytes that a listener sends to a client whose first bytes it cannot accept.

use bytes::Bytes;

use super::{FrameError, FramingKind};
use crate::session::{Refusal, plain_refusal};

/// The beginning of the refusal that a listener that uses lines sends to a client that uses
/// `Content-Length` headers.
pub(super) const JSON_REFUSAL: &str =
    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"data":{"framing":"lines"},"message":""#;

impl FrameError {
    /// Returns the bytes with which a listener with the framing `ours` refuses a client for this error
    /// in its first bytes, or `None` if the client would understand no refusal.
    ///
    /// If client and listener both use text, the refusal is a JSON-RPC error with a `Content-Length`
    /// header, which is the framing of one of them. Otherwise, it is a frame of the session protocol,
    /// which every client of this library recognizes ([`Framing::meet`](super::Framing::meet)). The
    /// bytes are valid only if nothing was sent before.
    pub fn refusal(&self, ours: FramingKind) -> Option<Bytes> {
        Some(match self {
            Self::OtherFraming { theirs, .. } => {
                let text = explanation(ours, *theirs);
                let code = match ours {
                    FramingKind::Lines => Refusal::UsesLines,
                    FramingKind::ContentLength => Refusal::UsesContentLength,
                    FramingKind::LengthPrefix => Refusal::UsesLengthPrefix,
                };
                match [ours, *theirs].contains(&FramingKind::LengthPrefix) {
                    true => plain_refusal(code, &text),
                    false => in_json(ours, &text),
                }
            }
            Self::UnexpectedGreeting => plain_refusal(
                Refusal::NoSessions,
                "this listener has no sessions; connect without resume+ and --resume, or start the server with \
                 --resume",
            ),
            Self::FirstNotJson => plain_refusal(Refusal::NotJson, &self.to_string()),
            _ => return None,
        })
    }
}

fn explanation(ours: FramingKind, theirs: FramingKind) -> String {
    let listen = match theirs {
        FramingKind::Lines => String::new(),
        theirs => format!("{theirs}+"),
    };
    let connect = match ours {
        FramingKind::Lines => format!("connect without {theirs}+"),
        ours => format!("connect to {ours}+unix:PATH"),
    };
    format!(
        "this listener uses the framing {ours}, and the client uses {theirs}; {connect}, or start the server with \
         --listen {listen}unix:PATH"
    )
}

fn in_json(ours: FramingKind, text: &str) -> Bytes {
    let start = match ours {
        FramingKind::Lines => JSON_REFUSAL.to_owned(),
        ours => JSON_REFUSAL.replace("lines", ours.name()),
    };
    let error = format!("{start}{text}\"}}}}");
    format!("Content-Length: {}\r\n\r\n{error}", error.len()).into()
}
