//! What the other side gets in place of an answer that the line does not carry.

use bytes::Bytes;
use tieline_proto::EncodeError;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Dialect, INTERNAL_ERROR, Message, classify, write_error};

/// Errors to send in place of `message`, the first that the line carries; none if it was no answer.
///
/// The last is short and on one line, so that it cannot be refused in its turn.
pub(crate) fn instead_of(message: &Bytes, why: &EncodeError, dialect: &Dialect) -> Vec<Vec<u8>> {
    let text = format!("internal error: the answer cannot be sent: {why}");
    let error = |id: &[u8]| write_error(dialect, id, INTERNAL_ERROR, &text, None);
    // What a handler has answered may have more structure than what the other side may say.
    let lost = classify(message.clone(), dialect, Limits { depth: u32::MAX, keys: u32::MAX });
    match &lost {
        Message::Batch(answers) => {
            let errors: Vec<_> = answers.iter().filter_map(id_of).map(error).collect();
            let batch = [b"[", &errors.join(&b',')[..], b"]"].concat();
            vec![batch, error(b"null")]
        }
        // The answers to a batch, one of them nested too deep to be told from the others.
        Message::Invalid(_) if message.starts_with(b"[") => vec![error(b"null")],
        one => id_of(one).map(error).into_iter().collect(),
    }
}

/// Which request it answers.
fn id_of(answer: &Message) -> Option<&[u8]> {
    match answer {
        Message::Response(response) => Some(response.id()),
        Message::Invalid(invalid) if invalid.is_response() => Some(invalid.id()),
        _ => None,
    }
}
