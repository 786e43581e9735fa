//! The requests that wait for an answer.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::error::Error;
use crate::message::Message;
use crate::subject::Subject;
use crate::subscriber::{Found, Subscriber};

#[derive(Default)]
pub(super) struct Requests {
    pending: HashMap<u64, Pending, Numbers>,
    last: u64,
    is_closed: bool,
}

/// A request that waits for an answer.
pub(super) struct Pending {
    subject: Subject,
    answer: oneshot::Sender<Result<Message, Error>>,
    /// The subscriptions that have the request.
    pub(super) responders: Vec<Arc<Subscriber>>,
    /// Whether a responder that has ended had taken the request.
    taken: bool,
}

pub(super) type Answer = oneshot::Receiver<Result<Message, Error>>;

impl Pending {
    pub(super) fn fail(self, error: Error) {
        let _ = self.answer.send(Err(error));
    }

    pub(super) fn fail_as_lost(self) {
        let (subject, taken) = (self.subject.shared(), self.taken);
        self.fail(Error::ResponderLost { subject, taken });
    }

    pub(super) fn answer(self, message: Message) {
        let _ = self.answer.send(Ok(message));
    }
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Adds a request. Returns its number.
    pub(super) fn add(&mut self, subject: &Subject, most: usize) -> Result<(u64, Answer), Error> {
        if self.is_closed {
            return Err(Error::Closed);
        }
        if self.pending.len() >= most {
            return Err(Error::TooManyRequests { limit: most });
        }
        self.last += 1;
        let (answer, receiver) = oneshot::channel();
        let subject = subject.clone();
        let pending = Pending { subject, answer, responders: Vec::new(), taken: false };
        self.pending.insert(self.last, pending);
        Ok((self.last, receiver))
    }

    /// Sets the responders of a request before it is delivered to them.
    pub(super) fn assign(&mut self, request: u64, responders: &[&Arc<Subscriber>]) {
        if let Some(pending) = self.pending.get_mut(&request) {
            pending.responders = responders.iter().map(|it| Arc::clone(it)).collect();
        }
    }

    /// Removes a request that this client has answered. Returns `None` if there is no such request, and
    /// an error if the client does not have the request.
    pub(super) fn answered(&mut self, request: u64, client: u64) -> Result<Option<Pending>, ()> {
        match self.pending.get(&request) {
            None => Ok(None),
            Some(it) if it.responders.iter().all(|it| it.client != client) => Err(()),
            Some(_) => Ok(self.pending.remove(&request)),
        }
    }

    pub(super) fn remove(&mut self, request: u64) -> Option<Pending> {
        self.pending.remove(&request)
    }

    /// Removes a subscription from the responders. Returns the requests that have none left.
    pub(super) fn responder_ended(
        &mut self,
        subscriber: &Arc<Subscriber>,
        untaken: &[u64],
    ) -> Vec<Pending> {
        let has_ended = |request: &u64, pending: &mut Pending| {
            let before = pending.responders.len();
            pending.responders.retain(|it| !Arc::ptr_eq(it, subscriber));
            if pending.responders.len() == before {
                return false;
            }
            pending.taken |= !untaken.contains(request);
            pending.responders.is_empty()
        };
        self.pending.extract_where(has_ended)
    }

    /// Removes a subscription from the responders of one request, which its queue has dropped. Returns the
    /// request if there are none left.
    pub(super) fn dropped(&mut self, request: u64, by: &Subscriber) -> Option<Pending> {
        let pending = self.pending.get_mut(&request)?;
        pending.responders.retain(|it| it.id != by.id);
        pending.responders.is_empty().then(|| self.pending.remove(&request)).flatten()
    }

    /// Closes the table, and returns the requests.
    pub(super) fn close(&mut self) -> Vec<Pending> {
        self.is_closed = true;
        std::mem::take(&mut self.pending).into_values().collect()
    }
}

/// Removes the request from the subscription's queue, or tells the subscription that it was cancelled.
pub(super) fn withdraw(responder: &Subscriber, request: u64) {
    match responder.cancel(request) {
        Found::InQueue(_) => responder.load.settle(),
        // It is settled when the responder has taken the cancellation.
        Found::Taken => {}
    }
}

/// `HashMap::extract_if`, which the oldest supported Rust lacks.
trait ExtractWhere {
    fn extract_where(&mut self, is_it: impl FnMut(&u64, &mut Pending) -> bool) -> Vec<Pending>;
}

impl ExtractWhere for HashMap<u64, Pending, Numbers> {
    fn extract_where(&mut self, mut is_it: impl FnMut(&u64, &mut Pending) -> bool) -> Vec<Pending> {
        let found: Vec<u64> =
            self.iter_mut().filter_map(|(key, it)| is_it(key, it).then_some(*key)).collect();
        found.iter().filter_map(|key| self.remove(key)).collect()
    }
}

/// Hashes the numbers of requests, which this process assigns, so that they need no protection against
/// chosen keys.
#[derive(Default)]
struct NumberHasher(u64);

type Numbers = BuildHasherDefault<NumberHasher>;

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // The table uses the highest and the lowest bits.
        self.0 ^ (self.0 >> 32)
    }
}
