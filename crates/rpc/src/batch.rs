//! The answers to requests that came together.

use std::sync::{Arc, Mutex};

use crate::shared::Shared;

/// The answers of one batch, which leave together as one message when the last is there.
pub(crate) struct Batch(Mutex<Answers>);

struct Answers {
    missing: usize,
    joined: Vec<u8>,
    /// How many bytes answer what was never carried out.
    refusal: usize,
}

impl Batch {
    /// A batch that waits for `missing` answers.
    pub(crate) fn new(missing: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Answers { missing, joined: vec![b'['], refusal: 0 })))
    }

    /// One more is there, or will not be.
    pub(crate) fn answered(&self, message: Option<Vec<u8>>, shared: &Shared) {
        self.add(message, 0, shared);
    }

    /// One more is there, to what is not carried out.
    pub(crate) fn refused(&self, message: Vec<u8>, shared: &Shared) {
        let length = message.len();
        self.add(Some(message), length, shared);
    }

    fn add(&self, message: Option<Vec<u8>>, refusal: usize, shared: &Shared) {
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
