//! The requests without a response, and what they name: ids, progress tokens and streams.

use std::collections::{BTreeSet, HashMap};

use tieline_proto::jsonrpc::{Answers, Id, MAX_ID, Request, member};

use super::SessionLimits;
use super::stream::StreamNumber;
use crate::Refusal;
use crate::answered::take_answered;

/// What each request costs in addition to its id and token.
const EACH: usize = 128;

/// The requests of the client and of the program that have no response yet.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Those of the client.
    calls: HashMap<Id, Call>,
    /// Their progress tokens, and the streams of their POSTs.
    tokens: HashMap<Id, StreamNumber>,
    /// The size of their ids and tokens.
    call_bytes: usize,
    /// Those of the program, and the streams that they were sent on.
    asked: HashMap<Id, StreamNumber>,
    /// The size of their ids.
    asked_bytes: usize,
}

/// A request of the client.
#[derive(Debug)]
pub(super) struct Call {
    /// The stream of its POST.
    pub(super) stream: StreamNumber,
    token: Option<Id>,
}

impl Call {
    /// The token is stored twice.
    fn cost(id: &[u8], token: Option<&[u8]>) -> usize {
        id.len() + 2 * token.map_or(0, <[u8]>::len)
    }
}

/// Returns the progress token of a request.
fn token_of(request: &Request) -> Option<&[u8]> {
    let token = member(member(request.params()?, "_meta")?, "progressToken")?;
    matches!(token.first(), Some(b'"' | b'-' | b'0'..=b'9')).then_some(token)
}

impl Requests {
    /// Checks that the requests of a POST can be added.
    ///
    /// # Errors
    /// 400: an id or a progress token is in use, or a token is too long. 503: there are too many requests, or their
    /// ids and tokens are too long together.
    pub(super) fn check<'a>(
        &self,
        posted: impl Iterator<Item = &'a Request>,
        limits: &SessionLimits,
    ) -> Result<(), Refusal> {
        let (mut ids, mut tokens, mut bytes) = (BTreeSet::new(), BTreeSet::new(), self.call_bytes);
        for request in posted {
            let (id, token) = (request.id(), token_of(request));
            if self.calls.contains_key(&Id::from(id)) || !ids.insert(id) {
                let text = "another request with this id has no response yet";
                return Err(Refusal::invalid(text));
            }
            if let Some(token) = token {
                if token.len() > MAX_ID {
                    let text = format!("the progress token is longer than {MAX_ID} bytes");
                    return Err(Refusal::invalid(text));
                }
                if self.tokens.contains_key(&Id::from(token)) || !tokens.insert(token) {
                    let text = "another request with this progress token has no response yet";
                    return Err(Refusal::invalid(text));
                }
            }
            bytes += Call::cost(id, token);
        }
        let SessionLimits { calls, id_bytes, .. } = limits;
        if self.calls.len() + ids.len() > *calls {
            let text = format!(
                "too many requests of this session have no response yet: the limit is {calls}"
            );
            return Err(Refusal::new(503, text));
        }
        // The first request is accepted whatever the limit is.
        if bytes > *id_bytes && self.calls.len() + ids.len() > 1 {
            let text = format!(
                "the ids and progress tokens of the requests without a response are too long: the limit of a \
                 session is {id_bytes} bytes"
            );
            return Err(Refusal::new(503, text));
        }
        Ok(())
    }

    /// Adds a request of the client, which was [checked](Self::check).
    pub(super) fn begin(&mut self, request: &Request, stream: StreamNumber) {
        let token = token_of(request).map(Id::from);
        self.call_bytes += Call::cost(request.id(), token.as_deref());
        if let Some(token) = &token {
            self.tokens.insert(token.clone(), stream);
        }
        self.calls.insert(Id::from(request.id()), Call { stream, token });
    }

    /// Removes the request of the client that is answered. Returns its id as the client wrote it.
    pub(super) fn settle(&mut self, answers: Answers<'_>) -> Option<(Id, Call)> {
        let (id, call) = take_answered(&mut self.calls, answers)?;
        self.call_bytes -= Call::cost(&id, call.token.as_deref());
        if let Some(token) = &call.token {
            self.tokens.remove(token);
        }
        Some((id, call))
    }

    /// Returns the stream of the request with this progress token.
    pub(super) fn of_token(&self, token: &[u8]) -> Option<StreamNumber> {
        self.tokens.get(&Id::from(token)).copied()
    }

    /// Adds a request of the program. Beyond the limits it is not remembered: if the program cancels it, the
    /// cancellation goes to the general stream.
    pub(super) fn ask(&mut self, id: &[u8], stream: StreamNumber, limits: &SessionLimits) {
        let bytes = self.asked_bytes + id.len();
        let is_known = self.asked.contains_key(&Id::from(id));
        if self.asked.len() < limits.calls && bytes <= limits.id_bytes && !is_known {
            self.asked_bytes = bytes;
            self.asked.insert(Id::from(id), stream);
        }
    }

    /// Removes a request of the program. Returns the stream that it was sent on.
    pub(super) fn answered(&mut self, id: &[u8]) -> Option<StreamNumber> {
        let stream = self.asked.remove(&Id::from(id))?;
        self.asked_bytes -= id.len();
        Some(stream)
    }

    /// Returns whether no request of the client waits for its response.
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Returns the bytes that are held for all of this.
    pub(super) fn held(&self) -> usize {
        self.call_bytes + self.asked_bytes + EACH * (self.calls.len() + self.asked.len())
    }

    #[cfg(test)]
    pub(super) fn check_exact(&self) {
        let cost = |(id, call): (&Id, &Call)| Call::cost(id, call.token.as_deref());
        assert_eq!(self.call_bytes, self.calls.iter().map(cost).sum::<usize>());
        assert_eq!(self.asked_bytes, self.asked.keys().map(|id| id.len()).sum::<usize>());
        let tokens = self.calls.values().filter(|call| call.token.is_some()).count();
        assert_eq!(self.tokens.len(), tokens);
    }

    #[cfg(test)]
    pub(super) fn streams(&self) -> BTreeSet<StreamNumber> {
        self.calls.values().map(|call| call.stream).collect()
    }

    #[cfg(test)]
    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }
}
