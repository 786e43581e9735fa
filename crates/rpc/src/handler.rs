//! What answers the other side: a trait for everything, and what its answers may be.

use bytes::Bytes;
use tieline_proto::Fault;
use tieline_proto::jsonrpc::{Notification, Request};
use tieline_transport::{BoxFuture, Reset};

use crate::{ErrorObject, Peer};

/// The result of a request: JSON as it goes into the answer, or an error. The JSON is not checked.
///
/// When the answer is longer than the line takes, or has a raw newline on a line that cannot carry one,
/// the other side gets −32603 in its place.
pub type Outcome = Result<Bytes, ErrorObject>;

/// What a handler gives back: something that is there, or will be.
pub enum Answer<T> {
    /// It is there, at the cost of no allocation.
    Now(T),
    /// It will be. The future is polled once where the request came in, and goes on in a task of
    /// its own if it is not ready then. It is dropped when the request is cancelled or the line ends.
    Later(BoxFuture<'static, T>),
}

impl<T> Answer<T> {
    /// An answer that will be there.
    pub fn later(answer: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }
}

/// What answers the other side. [`Router`](crate::Router) is one made of closures; a handler that
/// holds another is a middleware.
///
/// A handler that panics is answered for with −32603; the line goes on.
pub trait Handler: Send + Sync + 'static {
    /// A request has come, and everything notified before it was handled. Requests run
    /// concurrently, up to [`PeerOptions::max_in_flight`](crate::PeerOptions::max_in_flight).
    ///
    /// It runs where the line is driven: while it blocks, nothing else happens on the line.
    /// What takes time belongs into [`Answer::Later`].
    fn request(&self, request: Request, peer: &Peer) -> Answer<Outcome>;

    /// A notification has come. The next is not handled before this one was.
    ///
    /// While more wait than [`PeerOptions::queue`](crate::PeerOptions::queue) allows, nothing is read,
    /// and after [`PeerOptions::grace`](crate::PeerOptions::grace) the line ends: a handler that waits
    /// for a call of its own should do so in a task.
    fn notification(&self, notification: Notification, peer: &Peer) -> Answer<()>;

    /// Over a Link, another line has come in place of one that was lost: the other side knows nothing
    /// any more, and here is the place to begin anew (`initialize`, open what was open). It is told
    /// behind what was notified over the old line, and before anything that came over the new one.
    ///
    /// Until the answer is there, calls and notifications wait, but for those made through this `peer`,
    /// which goes first for this line only. What waits for an ordinary one of them in here waits for
    /// ever. With the next reset the answer is dropped.
    fn reset(&self, reset: Reset, peer: &Peer) -> Answer<()> {
        let _ = (reset, peer);
        Answer::Now(())
    }

    /// Returns whether this side carries out requests; if not, messages that cannot be read are never
    /// answered, because they are not a client's. It is asked once, before anything is read.
    fn serves(&self) -> bool {
        true
    }

    /// A message could not be delivered; the line goes on. The other side was told unless it may have
    /// been an answer.
    fn fault(&self, fault: &Fault) {
        tracing::warn!("a message was not delivered: {fault}");
    }
}

/// Answers nothing: for a side that only calls.
impl Handler for () {
    fn serves(&self) -> bool {
        false
    }

    fn request(&self, request: Request, _: &Peer) -> Answer<Outcome> {
        Answer::Now(Err(ErrorObject::method_not_found(&request.method())))
    }

    fn notification(&self, _: Notification, _: &Peer) -> Answer<()> {
        Answer::Now(())
    }
}
