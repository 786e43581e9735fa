//! The handle that makes calls and sends notifications.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tieline_transport::{Channel, CloseReason, Control};

use crate::driver::Driver;
use crate::error::{CallError, ErrorObject, NotSent};
use crate::handler::Handler;
use crate::invocation::Invocation;
use crate::options::PeerOptions;
use crate::shared_peer::{Bound, SharedPeer, UnclaimedAnswers};

/// One side of a JSON-RPC line, used to call the other side from any task. Cheap to clone.
///
/// Nothing happens unless the [`Driver`] is polled. The line lasts until one side closes it or the
/// driver is dropped; dropping the handles does not end it.
#[derive(Clone)]
pub struct Peer {
    shared: Arc<SharedPeer>,
    control: Control,
    bound: Option<Bound>,
}

impl Peer {
    /// Creates a peer over `channel`. `handler` answers the other side: a [`Router`](crate::Router),
    /// `()` for a side that only makes calls, or your own [`Handler`]. Nothing is read or written yet.
    pub fn new<C: Channel, H: Handler>(
        channel: C,
        handler: H,
        options: PeerOptions,
    ) -> (Self, Driver<C, H>) {
        let control = channel.control().clone();
        let shared = Arc::new(SharedPeer::new(options));
        let peer = Self { shared: shared.clone(), control, bound: None };
        let driver = Driver::new(channel, handler, peer.clone(), shared);
        (peer, driver)
    }

    /// Creates a peer over `channel` with the default options, and spawns its driver on the current tokio
    /// runtime. [`closed`](Self::closed) waits for the end of the line; use [`new`](Self::new) to set
    /// options or to poll the driver yourself. The line ends with the runtime.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    pub fn spawn<C: Channel, H: Handler>(channel: C, handler: H) -> Self {
        let (peer, driver) = Self::new(channel, handler, PeerOptions::default());
        tokio::spawn(driver);
        peer
    }

    /// Calls `method` and waits for its result.
    ///
    /// `params` must serialize to an array (a tuple, a slice), to an object (a struct, a map), or to nothing
    /// (`()`, `None`). The result is deserialized into `R`; use `()` for `null`, and
    /// `serde::de::IgnoredAny` to ignore it. The call waits as long as [`PeerOptions::call_timeout`] allows;
    /// use [`method`](Self::method) to set other limits.
    ///
    /// If the future is dropped before the response arrives, a request that was not sent yet is removed from
    /// the queue, and one that was sent is cancelled if the dialect supports it. A late response is counted
    /// and dropped.
    ///
    /// # Errors
    /// [`CallError`] distinguishes an error returned by the other side, a call that was not sent, and one
    /// whose fate is unknown.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the call. The other side may have carried it out.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<R, CallError> {
        self.method(method).params(params).call().await
    }

    /// Prepares a call of `method` with further options.
    pub fn method<'a>(&'a self, method: &'a str) -> Invocation<'a> {
        Invocation::new(self, method)
    }

    /// Sends a notification: queues the message, and waits only for room in the queue. `params` are the same
    /// as for [`call`](Self::call). Cancel-safe: the message is queued or it is not.
    ///
    /// After the other side has ended its direction, notifications are still queued while one of its requests
    /// is being carried out. Calls are not, because they could not be answered.
    ///
    /// A queued message is lost silently if the line ends first, and with a warning in the log if the line
    /// cannot carry it.
    ///
    /// # Errors
    /// Fails if the message was not queued.
    pub async fn notify(&self, method: &str, params: impl Serialize) -> Result<(), NotSent> {
        let params = serialize(&params)?;
        self.shared.notify(method, params.as_deref(), self.bound).await
    }

    /// Works like [`notify`](Self::notify), but sends `params` as raw JSON, which must be an object or
    /// array and is not checked.
    ///
    /// # Errors
    /// Fails if the message was not queued.
    pub async fn notify_raw(&self, method: &str, params: Option<&[u8]>) -> Result<(), NotSent> {
        self.shared.notify(method, params, self.bound).await
    }

    /// Closes the line and returns why it ended. Nothing new is accepted, and work in progress on both sides
    /// may finish within [`PeerOptions::grace`]. Requests that arrive in the meantime are answered with
    /// −32000. Cancel-safe; the close continues.
    ///
    /// If nothing is in progress, the line ends once everything is written. If the other side may not
    /// have read a notification or a response yet, this waits for the end of its direction, within the
    /// grace period. A child process enters its stop stages at once; they begin with the end of its
    /// input.
    pub async fn close(&self) -> CloseReason {
        self.shared.request_close();
        self.closed().await
    }

    /// Waits until the line has ended and returns the reason. Cancel-safe.
    pub async fn closed(&self) -> CloseReason {
        let mut ended = self.shared.ended.subscribe();
        // This cannot fail, because `self` owns the sender.
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or(CloseReason::ByUs)
    }

    /// Returns the control of the line: the peer's identity, message counts, and why the line ended.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Returns how many responses were dropped because no call was waiting for them. The first one with
    /// an unknown id is also logged.
    pub fn unclaimed_answers(&self) -> UnclaimedAnswers {
        self.shared.unclaimed()
    }

    /// Returns a handle for the current line of a Link only. Once the line has been replaced, calls and
    /// notifications through this handle are not sent ([`NotSent::Reset`]). Use it for state that means
    /// nothing to another process, such as a view or an open document. Over other channels it makes no
    /// difference.
    pub fn on_this_line(&self) -> Self {
        let line = self.shared.line();
        Self {
            bound: Some(self.bound.unwrap_or(Bound { line, goes_first: false })),
            ..self.clone()
        }
    }

    /// Returns a handle that goes first on `line`.
    pub(crate) fn first_on(&self, line: u64) -> Self {
        Self { bound: Some(Bound { line, goes_first: true }), ..self.clone() }
    }

    pub(crate) fn bound(&self) -> Option<Bound> {
        self.bound
    }

    pub(crate) fn shared(&self) -> &SharedPeer {
        &self.shared
    }
}

/// Serializes parameters for a message. Returns `None` for `()` and for `None`.
pub(crate) fn serialize(params: &impl Serialize) -> Result<Option<Vec<u8>>, NotSent> {
    let params = serde_json::to_vec(params).map_err(NotSent::Params)?;
    match params.first() {
        Some(b'{' | b'[') => Ok(Some(params)),
        Some(b'n') => Ok(None),
        _ => {
            let problem = "parameters must be an object, an array, or nothing";
            Err(NotSent::Params(<serde_json::Error as serde::ser::Error>::custom(problem)))
        }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("control", &self.control).finish_non_exhaustive()
    }
}

/// Wraps the error as [`CallError::Remote`].
impl From<ErrorObject> for CallError {
    fn from(error: ErrorObject) -> Self {
        Self::Remote(error)
    }
}
