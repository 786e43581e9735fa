//! The requests of a batch are answered together.

use std::collections::HashMap;

use bytes::Bytes;

use super::ClientId;

/// How many bytes of responses are collected for one client. At this limit, a batch is answered in several parts.
const MAX_BYTES: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchId {
    client: ClientId,
    number: u64,
}

/// The batches that are not answered yet. Their number is bounded by the number of requests in flight.
#[derive(Default)]
pub(super) struct Batches {
    last: u64,
    open: HashMap<ClientId, OfClient>,
}

#[derive(Default)]
struct OfClient {
    batches: HashMap<u64, Batch>,
    /// The size of the responses of all its batches.
    bytes: usize,
}

struct Batch {
    /// The number of requests without a response.
    left: usize,
    responses: Vec<Bytes>,
}

impl Batches {
    /// Adds a batch with this many requests. Returns `None` if it has none, and so gets no answer.
    pub(super) fn begin(&mut self, client: ClientId, requests: usize) -> Option<BatchId> {
        if requests == 0 {
            return None;
        }
        self.last += 1;
        let batch = Batch { left: requests, responses: Vec::new() };
        self.open.entry(client).or_default().batches.insert(self.last, batch);
        Some(BatchId { client, number: self.last })
    }

    /// Adds a response. Returns the message to send, if any.
    pub(super) fn answered(&mut self, id: BatchId, response: Bytes) -> Option<Bytes> {
        let of_client = self.open.get_mut(&id.client)?;
        let batch = of_client.batches.get_mut(&id.number)?;
        of_client.bytes += response.len();
        batch.responses.push(response);
        self.unanswered(id)
    }

    /// Records that a request of the batch is settled. Returns the message to send, if any.
    pub(super) fn unanswered(&mut self, id: BatchId) -> Option<Bytes> {
        let of_client = self.open.get_mut(&id.client)?;
        let batch = of_client.batches.get_mut(&id.number)?;
        batch.left = batch.left.saturating_sub(1);
        if batch.left > 0 && of_client.bytes < MAX_BYTES {
            return None;
        }
        let responses = std::mem::take(&mut batch.responses);
        of_client.bytes -= responses.iter().map(Bytes::len).sum::<usize>();
        if batch.left == 0 {
            of_client.batches.remove(&id.number);
        }
        let all = responses.join(&b","[..]);
        (!all.is_empty()).then(|| [b"[", &all[..], b"]"].concat().into())
    }

    /// Returns the size of the responses that are collected for a client.
    pub(super) fn bytes(&self, client: ClientId) -> usize {
        self.open.get(&client).map_or(0, |it| it.bytes)
    }

    pub(super) fn forget(&mut self, client: ClientId) {
        self.open.remove(&client);
    }

    #[cfg(test)]
    pub(super) fn collected(&self) -> usize {
        self.open.values().map(|it| it.bytes).sum()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.values().all(|it| it.batches.is_empty())
    }
}
