//! One call: its parameters, how long it may take, and what is told of it meanwhile.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tieline_proto::jsonrpc::{CallId, Response, TraceParent};
use tieline_transport::Health;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span, debug_span, field};

use crate::peer::serialize;
use crate::shared::{News, Shared};
use crate::{CallError, Meanwhile, NotSent, Peer};

/// A call that was not made yet: [`call`](Self::call) makes it.
///
/// ```no_run
/// # async fn example(peer: tieline_rpc::Peer) -> Result<(), tieline_rpc::CallError> {
/// use std::time::Duration;
///
/// let report: serde_json::Value = peer
///     .method("tools/call")
///     .params(serde_json::json!({ "name": "long-running" }))
///     .timeout(Duration::from_secs(10)) // without an answer, or word of progress
///     .total(Duration::from_secs(600)) // with whatever progress
///     .on_progress(|progress| println!("{}", String::from_utf8_lossy(progress)))
///     .call()
///     .await?;
/// # drop(report);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is called before `call` is awaited"]
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

    /// With these parameters: an object, an array, or nothing, as for [`Peer::call`].
    pub fn params(mut self, params: impl Serialize) -> Self {
        self.params = serialize(&params);
        self
    }

    /// With these parameters as they are: a JSON object or array, which is not checked.
    pub fn raw_params(mut self, params: impl Into<Vec<u8>>) -> Self {
        self.params = Ok(Some(params.into()));
        self
    }

    /// Waits so long for room in the queue and for the answer, instead of
    /// [`PeerOptions::call_timeout`](crate::PeerOptions::call_timeout). Word of progress begins the time
    /// anew, if [it was asked for](Self::on_progress).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Waits so long in all, for room and for the answer, whatever the progress.
    pub fn total(mut self, limit: Duration) -> Self {
        self.total = Some(limit);
        self
    }

    /// Fails at once, as [not sent](NotSent::Away), if there is no line at the moment: over a Link or a
    /// session that has lost its connection. Otherwise a call waits, as long as its time allows, for the
    /// next. A line that is lost a moment later is waited for all the same.
    pub fn fail_fast(mut self) -> Self {
        self.fail_fast = true;
        self
    }

    /// Belongs to this trace: where the dialect has a place for it, as MCP and ACP have, and the
    /// parameters are an object that names no other, the other side is told so in `_meta.traceparent`.
    pub fn trace(mut self, trace: TraceParent) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Asks to be told of progress, where the dialect can, and hears of it: the parameters of the
    /// notification as they came. When it comes faster than it is heard, the latest counts.
    ///
    /// `hear` runs where the call is awaited, and must not block. In a dialect without progress, and
    /// with parameters that are an array, it hears nothing.
    pub fn on_progress(mut self, hear: impl FnMut(&[u8]) + Send + 'a) -> Self {
        self.on_progress = Some(Box::new(hear));
        self
    }

    /// Calls, and waits for the result.
    ///
    /// Dropped before the answer came, it takes back a request that was not sent yet, and cancels
    /// one that was where the dialect can; a late answer is counted and dropped.
    ///
    /// # Errors
    /// [`CallError`] tells an error of the other side from a call that was not sent and from one
    /// whose fate is unknown.
    pub async fn call<R: DeserializeOwned>(self) -> Result<R, CallError> {
        let response = self.response().await?;
        let (Ok(result) | Err(result)) = response.outcome();
        serde_json::from_slice(result).map_err(CallError::BadAnswer)
    }

    /// Calls, and gives the result as it came. Cancel-safe as [`call`](Self::call).
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_raw(self) -> Result<Bytes, CallError> {
        let (Ok(result) | Err(result)) = self.response().await?.into_outcome();
        Ok(result)
    }

    /// The response, which has a result.
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
        // Room in the queue is waited for within the same time.
        let (wants_progress, bound) = (on_progress.is_some(), peer.bound());
        let begin = shared.begin_call(method, params.as_deref(), wants_progress, bound);
        let id = within(due, begin).await.ok_or(CallError::TimedOut(Meanwhile::default()))??;
        span.record("id", field::display(id));
        let call = Call { shared, id };
        loop {
            let news = poll_fn(|cx| call.shared.poll_call(call.id, cx.waker()));
            match within(due, news).await {
                None => {
                    let mut meanwhile = shared.meanwhile();
                    meanwhile.unreadable -= before.unreadable;
                    return Err(CallError::TimedOut(meanwhile));
                }
                Some(News::Answer(answer)) => return answer,
                Some(News::Progress(progress)) => {
                    if let Some(hear) = &mut on_progress {
                        hear(&progress);
                    }
                    due = deadline(timeout, end);
                }
            }
        }
    }
}

/// The line is lost, and another is sought.
fn is_away(peer: &Peer) -> bool {
    let control = peer.control();
    control.health() == Health::Down && control.close_reason().is_none()
}

/// When it is too late: so long from now, and never behind the end.
fn deadline(timeout: Option<Duration>, end: Option<Instant>) -> Option<Instant> {
    // A time beyond all clocks is none.
    let soon = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    match (soon, end) {
        (Some(soon), Some(end)) => Some(soon.min(end)),
        (one, other) => one.or(other),
    }
}

/// `None`: the time is over.
async fn within<T>(deadline: Option<Instant>, what: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(what.await),
        Some(deadline) => timeout_at(deadline, what).await.ok(),
    }
}

/// Given up when it is dropped; after its answer was taken that does nothing.
struct Call<'a> {
    shared: &'a Shared,
    id: CallId,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.shared.abandon(self.id);
    }
}
