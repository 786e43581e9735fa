//! The program's requests that clients have not answered.

use std::collections::HashMap;

use bytes::Bytes;
use tieline_proto::jsonrpc::Answers;

use super::ClientId;

/// The size that each request is charged in addition to its id and token.
const EACH: usize = 256;

/// A request of the program.
pub(super) struct Asked {
    pub(super) client: ClientId,
    pub(super) token: Option<Bytes>,
}

/// The requests of the program without a response, by their ids.
#[derive(Default)]
pub(super) struct AskedTable {
    requests: HashMap<Bytes, Asked>,
    bytes: usize,
}

impl AskedTable {
    fn cost(id: &[u8], asked: &Asked) -> usize {
        id.len() + asked.token.as_ref().map_or(0, Bytes::len) + EACH
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.bytes == 0
    }

    /// Returns the number of bytes that all requests hold.
    pub(super) fn held(&self) -> usize {
        self.bytes
    }

    /// Adds a request whose id is not in use.
    pub(super) fn insert(&mut self, id: &[u8], asked: Asked) {
        self.bytes += Self::cost(id, &asked);
        self.requests.insert(Bytes::copy_from_slice(id), asked);
    }

    pub(super) fn get(&self, id: &[u8]) -> Option<&Asked> {
        self.requests.get(id)
    }

    pub(super) fn remove(&mut self, id: &[u8]) -> Option<Asked> {
        let asked = self.requests.remove(id)?;
        self.bytes -= Self::cost(id, &asked);
        Some(asked)
    }

    /// Returns whether a client was asked something with this progress token.
    pub(super) fn has_token(&self, client: ClientId, token: &[u8]) -> bool {
        let is_it = |it: &Asked| it.client == client && it.token.as_deref() == Some(token);
        self.requests.values().any(is_it)
    }

    /// Returns the ids of the requests to this client.
    pub(super) fn of(&self, client: ClientId) -> impl Iterator<Item = &Bytes> {
        self.requests.iter().filter(move |(_, it)| it.client == client).map(|(id, _)| id)
    }

    /// Returns the id of the client's request that a response belongs to.
    pub(super) fn find(&self, client: ClientId, answers: Answers<'_>) -> Option<Bytes> {
        answers.find(self.of(client).map(|id| (id, id))).cloned()
    }
}
