//! Collects the responses to the requests of one batch.

use std::sync::{Arc, Mutex};

use crate::shared_peer::SharedPeer;

/// The responses to one batch. They are sent as one message once the last is complete.
pub(crate) struct Batch(Mutex<Answers>);

struct Answers {
    missing: usize,
    joined: Vec<u8>,
    /// How many of the bytes belong to responses to refused requests.
    refusal: usize,
}

impl Batch {
    /// Creates a batch that expects `missing` responses.
    pub(crate) fn new(missing: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Answers { missing, joined: vec![b'['], refusal: 0 })))
    }

    /// Adds one response, or `None` if the request gets no response.
    pub(crate) fn answered(&self, message: Option<Vec<u8>>, shared: &SharedPeer) {
        self.add(message, 0, shared);
    }

    /// Adds the response to a request that is refused.
    pub(crate) fn refused(&self, message: Vec<u8>, shared: &SharedPeer) {
        let length = message.len();
        self.add(Some(message), length, shared);
    }

    fn add(&self, message: Option<Vec<u8>>, refusal: usize, shared: &SharedPeer) {
        let mut answers = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        answers.refusal += refusal;
        if let Some(message) = message {
            if answers.joined.len() > 1 {
                answers.joined.push(b',');
            }
            answers.joined.extend_from_slice(&message);
        }
        answers.missing = answers.missing.saturating_sub(1);
        if answers.missing == 0 && answers.joined.len() > 1 {
            answers.joined.push(b']');
            shared.push_answer(std::mem::take(&mut answers.joined).into(), answers.refusal);
        }
    }
}
