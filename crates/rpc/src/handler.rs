//! The trait that answers the other side.

use std::sync::Arc;

use bytes::Bytes;
use tieline_proto::Fault;
use tieline_proto::jsonrpc::{Notification, Request};
use tieline_transport::{BoxFuture, Reset};

use crate::error::ErrorObject;
use crate::peer::Peer;

/// The outcome of a request: the result as JSON, or an error. The JSON is not checked.
///
/// If the response is longer than the line allows, or has a raw newline where the line cannot carry one,
/// the other side gets −32603 instead.
pub type Outcome = Result<Bytes, ErrorObject>;

/// The return value of a handler: a value, or a future that yields it.
pub enum Answer<T> {
    /// Available immediately, without an allocation.
    Now(T),
    /// Available later. The future is polled once in place, and moved to a task if it is not ready
    /// then. It is dropped when the request is cancelled or the line ends.
    Later(BoxFuture<'static, T>),
}

impl<T> Answer<T> {
    /// Wraps a future.
    pub fn later(answer: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }
}

/// Answers the requests and notifications from the other side. [`Router`](crate::Router) is a handler
/// made of closures; a handler that wraps another one is middleware.
///
/// If a handler panics, its request is answered with −32603 and the line continues.
pub trait Handler: Send + Sync + 'static {
    /// Handles a request. All notifications that arrived before it have been handled. Requests run
    /// concurrently, up to [`PeerOptions::max_in_flight`](crate::PeerOptions::max_in_flight).
    ///
    /// This method runs inside the driver: while it blocks, nothing else happens on the line. Return
    /// [`Answer::Later`] for anything that takes time.
    fn request(&self, request: Request, peer: &Peer) -> Answer<Outcome>;

    /// Handles a notification. The next one is not handled until this one is finished.
    ///
    /// While more bytes are waiting than [`PeerOptions::queue`](crate::PeerOptions::queue) allows, nothing is
    /// read, and after [`PeerOptions::grace`](crate::PeerOptions::grace) the line ends. A handler that waits
    /// for a call of its own should therefore do so in a task.
    fn notification(&self, notification: Notification, peer: &Peer) -> Answer<()>;

    /// Handles the replacement of a lost line by a Link. The other side has lost all state, so this is
    /// the place to set it up again (`initialize`, open documents). It runs after everything that
    /// arrived over the old line, and before anything that arrived over the new one.
    ///
    /// Until the returned answer is ready, all calls and notifications wait except those made through
    /// this `peer`, which go first, but only on this line. Waiting here for a call made through another
    /// handle deadlocks. The answer is dropped if another reset follows.
    fn reset(&self, reset: Reset, peer: &Peer) -> Answer<()> {
        let _ = (reset, peer);
        Answer::Now(())
    }

    /// Returns whether this side serves requests. If it does not, unreadable messages are never
    /// answered, because they cannot come from a client. Called once, before anything is read.
    fn serves(&self) -> bool {
        true
    }

    /// Handles a message that was discarded. The line continues. The other side gets an error unless the
    /// message may have been a response.
    fn fault(&self, fault: &Fault) {
        tracing::warn!("discarded a message: {fault}");
    }
}

/// A handler shared by several lines.
impl<H: Handler> Handler for Arc<H> {
    fn request(&self, request: Request, peer: &Peer) -> Answer<Outcome> {
        (**self).request(request, peer)
    }

    fn notification(&self, notification: Notification, peer: &Peer) -> Answer<()> {
        (**self).notification(notification, peer)
    }

    fn reset(&self, reset: Reset, peer: &Peer) -> Answer<()> {
        (**self).reset(reset, peer)
    }

    fn serves(&self) -> bool {
        (**self).serves()
    }

    fn fault(&self, fault: &Fault) {
        (**self).fault(fault);
    }
}

/// A handler without methods, for a side that only makes calls.
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
