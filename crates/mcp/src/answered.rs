//! Finds the request that a response answers.

use std::collections::HashMap;

use tieline_proto::jsonrpc::{Answers, Id};

/// Removes the request that is answered. Returns its id as its sender wrote it, and its value.
pub(crate) fn take_answered<T>(
    pending: &mut HashMap<Id, T>,
    answers: Answers<'_>,
) -> Option<(Id, T)> {
    let exact = match answers {
        Answers::Call(id) => Some(Id::from(id)).filter(|id| pending.contains_key(id)),
        Answers::OnlyCall => None,
    };
    let id = match exact {
        Some(id) => id,
        None => answers.find(pending.keys().map(|id| (id, &**id)))?.clone(),
    };
    let value = pending.remove(&id)?;
    Some((id, value))
}
