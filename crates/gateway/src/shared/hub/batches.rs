//! The requests of a batch are answered together.

use std::collections::HashMap;

use bytes::Bytes;

use super::ClientId;

/// How many bytes of responses are collected. More are sent as several batches.
const MAX_BYTES: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BatchId(u64);

/// The batches that are not answered yet. Their number is bounded by that of the requests in flight.
#[derive(Default)]
pub(super) struct Batches {
    last: u64,
    open: HashMap<BatchId, Batch>,
}

struct Batch {
    client: ClientId,
    /// Requests without a response.
    left: usize,
    responses: Vec<Bytes>,
    bytes: usize,
}

impl Batches {
    /// Adds a batch with this many requests; `None` if it has none and so gets no answer.
    pub(super) fn begin(&mut self, client: ClientId, requests: usize) -> Option<BatchId> {
        if requests == 0 {
            return None;
        }
        self.last += 1;
        let id = BatchId(self.last);
        let batch = Batch { client, left: requests, responses: Vec::new(), bytes: 0 };
        self.open.insert(id, batch);
        Some(id)
    }

    /// Adds a response, and returns what is to be sent.
    pub(super) fn answered(&mut self, id: BatchId, response: Bytes) -> Option<Bytes> {
        let batch = self.open.get_mut(&id)?;
        batch.bytes += response.len();
        batch.responses.push(response);
        self.unanswered(id)
    }

    /// Notes that a request of the batch is settled, and returns what is to be sent.
    pub(super) fn unanswered(&mut self, id: BatchId) -> Option<Bytes> {
        let batch = self.open.get_mut(&id)?;
        batch.left = batch.left.saturating_sub(1);
        if batch.left > 0 && batch.bytes < MAX_BYTES {
            return None;
        }
        let responses = std::mem::take(&mut batch.responses);
        batch.bytes = 0;
        if batch.left == 0 {
            self.open.remove(&id);
        }
        let all = responses.join(&b","[..]);
        (!all.is_empty()).then(|| [b"[", &all[..], b"]"].concat().into())
    }

    pub(super) fn forget(&mut self, client: ClientId) {
        self.open.retain(|_, batch| batch.client != client);
    }
}
