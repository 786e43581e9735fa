//! A single call: parameters, timeouts and progress.

use std::future::poll_fn;
use std::mem;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tieline_proto::jsonrpc::{CallId, Response, TraceParent};
use tieline_transport::Health;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span, debug_span, field};

use crate::error::{CallError, Meanwhile, NotSent};
use crate::peer::{Peer, serialize};
use crate::shared_peer::{News, SharedPeer};

/// A call that has not been made yet; [`call`](Self::call) makes it.
///
/// ```no_run
/// # async fn example(peer: tieline_rpc::Peer) -> Result<(), tieline_rpc::CallError> {
/// use std::time::Duration;
///
/// let report: serde_json::Value = peer
///     .method("tools/call")
///     .params(serde_json::json!({ "name": "long-running" }))
///     .timeout(Duration::from_secs(10)) // without a response or progress
///     .total(Duration::from_secs(600)) // in total, with any amount of progress
///     .on_progress(|progress| println!("{}", String::from_utf8_lossy(progress)))
///     .call()
///     .await?;
/// # drop(report);
/// # Ok(())
/// # }
/// ```
#[must_use = "a call is not made until `call` is awaited"]
pub struct Invocation<'a> {
    peer: &'a Peer,
    method: &'a str,
    params: Result<Option<Vec<u8>>, NotSent>,
    timeout: Option<Duration>,
    total: Option<Duration>,
    fail_fast: bool,
    trace: Option<TraceParent>,
    on_progress: Option<OnProgress<'a>>,
}

type OnProgress<'a> = Box<dyn FnMut(&[u8]) + Send + 'a>;

impl<'a> Invocation<'a> {
    pub(crate) fn new(peer: &'a Peer, method: &'a str) -> Self {
        let timeout = peer.shared().options.call_timeout;
        let (params, total, fail_fast, trace, on_progress) = (Ok(None), None, false, None, None);
        Self { peer, method, params, timeout, total, fail_fast, trace, on_progress }
    }

    /// Sets the parameters: an object, an array, or nothing, as for [`Peer::call`].
    pub fn params(mut self, params: impl Serialize) -> Self {
        self.params = serialize(&params);
        self
    }

    /// Sets the parameters as raw JSON, which must be an object or array and is not checked.
    pub fn raw_params(mut self, params: impl Into<Vec<u8>>) -> Self {
        self.params = Ok(Some(params.into()));
        self
    }

    /// Limits the wait for room in the queue and for the response. Overrides
    /// [`PeerOptions::call_timeout`](crate::PeerOptions::call_timeout). Progress restarts the timeout if
    /// [it was requested](Self::on_progress).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Limits the total wait, for room and for the response, regardless of progress.
    pub fn total(mut self, limit: Duration) -> Self {
        self.total = Some(limit);
        self
    }

    /// Fails immediately with [`NotSent::Away`] if a Link or session has lost its connection. Without
    /// this, the call waits for the next connection until its timeout. If the connection is lost just
    /// after the check, the call still waits.
    pub fn fail_fast(mut self) -> Self {
        self.fail_fast = true;
        self
    }

    /// Adds this trace to the call: if the dialect supports it (MCP and ACP do) and the parameters are
    /// an object without a trace, it is sent as `_meta.traceparent`.
    pub fn trace(mut self, trace: TraceParent) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Requests progress notifications, if the dialect supports them, and calls `callback` with the raw
    /// parameters of each one. If they arrive faster than they are handled, only the latest is kept.
    ///
    /// `callback` runs in the task that awaits the call, and must not block. It is never called in a
    /// dialect without progress, or if the parameters are an array.
    pub fn on_progress(mut self, callback: impl FnMut(&[u8]) + Send + 'a) -> Self {
        self.on_progress = Some(Box::new(callback));
        self
    }

    /// Makes the call and waits for the result.
    ///
    /// If the future is dropped before the response arrives, a request that was not sent yet is removed from
    /// the queue, and one that was sent is cancelled if the dialect supports it. A late response is counted
    /// and dropped.
    ///
    /// # Errors
    /// [`CallError`] distinguishes an error returned by the other side, a call that was not sent, and one
    /// whose fate is unknown.
    pub async fn call<R: DeserializeOwned>(self) -> Result<R, CallError> {
        let response = self.response().await?;
        let (Ok(result) | Err(result)) = response.outcome();
        serde_json::from_slice(result).map_err(CallError::BadAnswer)
    }

    /// Makes the call and returns the raw result. Cancel-safe like [`call`](Self::call).
    ///
    /// # Errors
    /// See [`call`](Self::call).
    pub async fn call_raw(self) -> Result<Bytes, CallError> {
        let (Ok(result) | Err(result)) = self.response().await?.into_outcome();
        Ok(result)
    }

    /// Makes the call and returns a response that has a result.
    async fn response(self) -> Result<Response, CallError> {
        let trace = self.trace.as_ref().map(field::display);
        let span = debug_span!("call", method = self.method, id = field::Empty, trace);
        self.responded(&span).instrument(span.clone()).await
    }

    async fn responded(self, span: &Span) -> Result<Response, CallError> {
        let Self { peer, method, params, timeout, total, fail_fast, trace, mut on_progress } = self;
        let (shared, mut params) = (peer.shared(), params?);
        let before = shared.meanwhile();
        if fail_fast && is_away(peer) {
            return Err(NotSent::Away.into());
        }
        if let Some(trace) = trace {
            let dialect = &shared.options.dialect;
            params = dialect.with_trace(&trace, params.as_deref()).or(params);
        }
        let end = total.and_then(|total| Instant::now().checked_add(total));
        let mut due = deadline(timeout, end);
        // The wait for room in the queue counts against the same deadline.
        let (wants_progress, bound) = (on_progress.is_some(), peer.bound());
        let begin = shared.begin_call(method, params.as_deref(), wants_progress, bound);
        let id = within(due, begin).await.ok_or(CallError::TimedOut(Meanwhile::default()))??;
        span.record("id", field::display(id));
        let mut call = Call { shared, id, is_over: false };
        // The call has just been queued with the waker of this task.
        let mut will_be_woken = true;
        loop {
            let news = poll_fn(|cx| match mem::take(&mut will_be_woken) {
                true => Poll::Pending,
                false => shared.poll_call(id, cx.waker()),
            });
            match within(due, news).await {
                None => {
                    let mut meanwhile = shared.meanwhile();
                    meanwhile.unreadable -= before.unreadable;
                    return Err(CallError::TimedOut(meanwhile));
                }
                Some(News::Answer(answer)) => {
                    call.is_over = true;
                    return answer;
                }
                Some(News::Progress(progress)) => {
                    if let Some(callback) = &mut on_progress {
                        callback(&progress);
                    }
                    due = deadline(timeout, end);
                }
            }
        }
    }
}

/// Returns whether the connection is lost and being re-established.
fn is_away(peer: &Peer) -> bool {
    let control = peer.control();
    control.health() == Health::Down && control.close_reason().is_none()
}

/// Returns the next deadline: `timeout` from now, but not after `end`.
fn deadline(timeout: Option<Duration>, end: Option<Instant>) -> Option<Instant> {
    // A deadline beyond the range of the clock is ignored.
    let soon = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    match (soon, end) {
        (Some(soon), Some(end)) => Some(soon.min(end)),
        (one, other) => one.or(other),
    }
}

/// Returns `None` if the deadline passes first.
async fn within<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(future.await),
        Some(deadline) => timeout_at(deadline, future).await.ok(),
    }
}

/// Abandons the call when dropped, unless the response was taken.
struct Call<'a> {
    shared: &'a SharedPeer,
    id: CallId,
    is_over: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.abandon(self.id);
        }
    }
}
