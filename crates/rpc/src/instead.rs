//! Errors sent in place of a response that the line cannot carry.

use bytes::Bytes;
use tieline_proto::EncodeError;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Dialect, INTERNAL_ERROR, Message, classify, write_error};

/// Returns errors to try in place of `message`, in order of preference; none if it is not a response.
///
/// The last one is short and on one line, so it cannot be refused as well.
pub(crate) fn instead_of(message: &Bytes, why: &EncodeError, dialect: &Dialect) -> Vec<Vec<u8>> {
    let text = format!("internal error: the response cannot be sent: {why}");
    let error = |id: &[u8]| write_error(dialect, id, INTERNAL_ERROR, &text, None);
    // A handler's response may exceed the structure limits for incoming messages.
    let lost = classify(message.clone(), dialect, Limits { depth: u32::MAX, keys: u32::MAX });
    match &lost {
        Message::Batch(answers) => {
            let errors: Vec<_> = answers.iter().filter_map(id_of).map(error).collect();
            let batch = [b"[", &errors.join(&b',')[..], b"]"].concat();
            vec![batch, error(b"null")]
        }
        // The responses to a batch, one of which is nested too deeply to be separated from the others.
        Message::Invalid(_) if message.starts_with(b"[") => vec![error(b"null")],
        one => id_of(one).map(error).into_iter().collect(),
    }
}

/// Returns the id of the request that the message answers.
fn id_of(answer: &Message) -> Option<&[u8]> {
    match answer {
        Message::Response(response) => Some(response.id()),
        Message::Invalid(invalid) if invalid.is_response() => Some(invalid.id()),
        _ => None,
    }
}
