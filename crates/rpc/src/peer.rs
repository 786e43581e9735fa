//! The handle: calls and notifications from any task.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tieline_transport::{Channel, CloseReason, Control};

use crate::shared::{Shared, UnclaimedAnswers};
use crate::{CallError, Driver, ErrorObject, Handler, Invocation, NotSent, PeerOptions};

/// One side of a JSON-RPC line: calls the other side, from any task. Cheap to clone.
///
/// Nothing moves unless its [`Driver`] is awaited. The line lives until one side closes it; dropping
/// the handles does not end it, dropping the driver does.
#[derive(Clone)]
pub struct Peer {
    shared: Arc<Shared>,
    control: Control,
    bound: Option<Bound>,
}

/// A handle that is for one line of a Link only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) line: u64,
    /// It goes first while the line is being begun.
    pub(crate) goes_first: bool,
}

impl Peer {
    /// A peer over `channel`, whose `handler` answers the other side: a [`Router`](crate::Router), `()`
    /// for a side that only calls, or one's own. Nothing happens yet.
    pub fn new<C: Channel, H: Handler>(
        channel: C,
        handler: H,
        options: PeerOptions,
    ) -> (Self, Driver<C, H>) {
        let control = channel.control().clone();
        let shared = Arc::new(Shared::new(options));
        let peer = Self { shared: shared.clone(), control, bound: None };
        let driver = Driver::new(channel, handler, peer.clone(), shared);
        (peer, driver)
    }

    /// Calls `method` and waits for its result.
    ///
    /// `params` are what serializes to an array (a tuple, a slice), to an object (a struct, a map), or
    /// to nothing (`()`, `None`). `R` is read from the result as it came; where that says nothing,
    /// take `()`, and where it does not matter, `serde::de::IgnoredAny`. It waits as long as
    /// [`PeerOptions::call_timeout`] says; [`method`](Self::method) makes a call that waits otherwise.
    ///
    /// Dropped before the answer came, it takes back a request that was not sent yet, and cancels
    /// one that was where the dialect can; a late answer is counted and dropped.
    ///
    /// # Errors
    /// [`CallError`] tells an error of the other side from a call that was not sent and from one
    /// whose fate is unknown.
    ///
    /// # Cancel safety
    /// Dropping the future is how a call is given up. The other side may have carried it out.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<R, CallError> {
        self.method(method).params(params).call().await
    }

    /// A call of `method` about which more is to be said.
    pub fn method<'a>(&'a self, method: &'a str) -> Invocation<'a> {
        Invocation::new(self, method)
    }

    /// Notifies the other side: queues the message, and waits only for room in the queue. `params` are
    /// as those of [`call`](Self::call). Cancel-safe: it is queued or not.
    ///
    /// Once the other side says no more, it is still queued for as long as a request of the other side's is
    /// carried out; calls are not, as nobody would answer them.
    ///
    /// What was queued is lost without further word when the line ends first, and with a warning in the
    /// log when it is longer than the line takes.
    ///
    /// # Errors
    /// It was not queued.
    pub async fn notify(&self, method: &str, params: impl Serialize) -> Result<(), NotSent> {
        let params = serialize(&params)?;
        self.shared.notify(method, params.as_deref(), self.bound).await
    }

    /// As [`notify`](Self::notify), with `params` as they are: a JSON object or array, which is not
    /// checked.
    ///
    /// # Errors
    /// It was not queued.
    pub async fn notify_raw(&self, method: &str, params: Option<&[u8]>) -> Result<(), NotSent> {
        self.shared.notify(method, params, self.bound).await
    }

    /// Takes nothing new, lets what is under way on both sides end within
    /// [`PeerOptions::grace`], closes the line, and says why it ended. Meanwhile requests of the other
    /// side are answered −32000. Cancel-safe; the close goes on.
    ///
    /// Where nothing is under way it ends once all is written. Only behind a notification or an answer that
    /// the other side may not have read is the other side's end waited for, within the grace. A child process
    /// gets its stages at once: they begin with the end of its input.
    pub async fn close(&self) -> CloseReason {
        self.shared.request_close();
        self.closed().await
    }

    /// Waits until the line has ended, and says why. Cancel-safe.
    pub async fn closed(&self) -> CloseReason {
        let mut ended = self.shared.ended.subscribe();
        // The sender lives in `self`.
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or(CloseReason::ByUs)
    }

    /// Who is on the other end, how many messages came and went, and why the line ended.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// How many answers came that nobody waited for. They are dropped, and harm nobody; the first
    /// that nobody asked for is also logged.
    pub fn unclaimed_answers(&self) -> UnclaimedAnswers {
        self.shared.unclaimed()
    }

    /// The same peer, for the present line of a Link alone: once another has come in its place, calls and
    /// notifications through this handle are not sent ([`NotSent::Reset`]). For what means nothing to
    /// another process: a view, an opened document. Over any other channel it is no different.
    pub fn on_this_line(&self) -> Self {
        let line = self.shared.line();
        Self {
            bound: Some(self.bound.unwrap_or(Bound { line, goes_first: false })),
            ..self.clone()
        }
    }

    /// The same, which goes first on `line`.
    pub(crate) fn first_on(&self, line: u64) -> Self {
        Self { bound: Some(Bound { line, goes_first: true }), ..self.clone() }
    }

    pub(crate) fn bound(&self) -> Option<Bound> {
        self.bound
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// Parameters as they go into the message; `()` and `None` are none.
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

/// What a call that the other side refused says.
impl From<ErrorObject> for CallError {
    fn from(error: ErrorObject) -> Self {
        Self::Remote(error)
    }
}
