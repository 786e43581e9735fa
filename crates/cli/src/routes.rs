//! What the routes `/mcp` and `/acp` share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tieline_http::{EventWriter, Route, RouteRequest, RouteResponse};
use tieline_mcp::{Next, Refusal};
use tieline_proto::sse;
use tieline_transport::{MemoryBudget, Owner, WarnThrottle};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

/// After this time, a comment is sent on an idle stream.
pub(crate) const QUIET: Duration = Duration::from_secs(15);

/// How many messages of the program are routed under one lock.
pub(crate) const TURN: usize = 64;

/// Below this, the memory budget counts nothing.
pub(crate) const UNCOUNTED: usize = 64 * 1024;

/// The maximum number of new clients that wait for the gateway.
pub(crate) const BACKLOG: usize = 64;

/// The options for the clients of a route.
#[derive(Clone)]
pub(crate) struct RouteOptions {
    /// The maximum number of clients.
    pub(crate) most: usize,
    /// How long a POST waits until the program reads.
    pub(crate) take_wait: Duration,
    pub(crate) memory: Option<MemoryBudget>,
    /// How long a program without requests is kept if its clients have no sessions.
    pub(crate) idle: Duration,
}

/// A route of one web server.
pub(crate) struct RouteSite<L> {
    pub(crate) route: Route,
    /// The lines of new clients.
    pub(crate) arrivals: mpsc::Receiver<L>,
    pub(crate) make_room: MakeRoom,
}

/// Ends an abandoned client, so that another one gets its place. Returns false if there is none.
pub(crate) type MakeRoom = Arc<dyn Fn() -> bool + Send + Sync>;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until this time of the clock, or forever if there is none.
pub(crate) async fn until(clock: Instant, time: Option<Duration>) {
    match time.and_then(|time| clock.checked_add(time)) {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Writes the events of a stream until it ends or the client disconnects.
pub(crate) async fn deliver(
    mut writer: EventWriter,
    more: &Notify,
    mut next: impl FnMut(&mut BytesMut) -> Next,
) {
    let mut event = BytesMut::new();
    while writer.ready().await {
        match next(&mut event) {
            Next::Event => writer.write(|out| out.unsplit(event.split())),
            Next::End => return,
            Next::Wait => tokio::select! {
                () = more.notified() => {}
                () = writer.gone() => return,
                () = sleep(QUIET) => writer.write(|out| sse::comment("", out)),
            },
        }
    }
}

/// A response other than a success.
pub(crate) enum Refused {
    Protocol(Refusal),
    Http(Box<RouteResponse>),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Protocol(refusal)
    }
}

impl From<RouteResponse> for Refused {
    fn from(response: RouteResponse) -> Self {
        Self::Http(Box::new(response))
    }
}

/// The refused requests of a route, of which few are logged.
pub(crate) struct Refusals {
    protocol: &'static str,
    throttle: WarnThrottle,
}

impl Refusals {
    pub(crate) fn of(protocol: &'static str) -> Self {
        let throttle = WarnThrottle::new(move |count| {
            tracing::info!(count, "more {protocol} requests were refused");
        });
        Self { protocol, throttle }
    }

    /// Returns the response to a refused request, and logs the refusal.
    pub(crate) fn response(&self, request: &RouteRequest, refused: Refused) -> RouteResponse {
        let refusal = match refused {
            Refused::Protocol(refusal) => refusal,
            Refused::Http(response) => return *response,
        };
        let (protocol, status, text) = (self.protocol, refusal.status, &refusal.text);
        match self.throttle.admit(std::time::Instant::now()) {
            Some(unreported) => {
                tracing::info!(status, unreported, "{protocol} request refused: {text}");
            }
            None => tracing::debug!(status, "{protocol} request refused: {text}"),
        }
        request.refused(status, refusal.body())
    }
}

/// A client that keeps its state between its requests.
pub(crate) trait Kept {
    fn owner(&self) -> Owner;

    /// Returns since when the client has been abandoned, if it has.
    fn abandoned_since(&self) -> Option<Duration>;

    /// Ends the client if it is still abandoned. Returns whether it was.
    fn evict(&self) -> bool;
}

/// The clients of a route by their ids.
pub(crate) struct Table<C>(Mutex<HashMap<String, Arc<C>>>);

impl<C> Default for Table<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Kept> Table<C> {
    /// Returns the client with this id, if it belongs to `owner`.
    pub(crate) fn find(&self, id: &str, owner: Owner) -> Option<Arc<C>> {
        lock(&self.0).get(id).filter(|client| client.owner() == owner).cloned()
    }

    pub(crate) fn insert(&self, id: &str, client: Arc<C>) {
        lock(&self.0).insert(id.to_owned(), client);
    }

    pub(crate) fn remove(&self, id: &str) {
        lock(&self.0).remove(id);
    }

    /// Returns whether there is no place for another client, where `others` of `most` places are used otherwise. If a
    /// client can be ended for it, the gateway has that done when it needs the place.
    pub(crate) fn is_full(&self, most: usize, others: usize) -> bool {
        let table = lock(&self.0);
        let used = table.len().saturating_add(others);
        let has_abandoned = || table.values().any(|it| it.abandoned_since().is_some());
        used >= most.saturating_add(BACKLOG) || used >= most && !has_abandoned()
    }

    /// Ends the client that has been abandoned the longest. It gets 404 and initializes again. Returns false if
    /// there is none.
    pub(crate) fn make_room(&self) -> bool {
        let table = lock(&self.0);
        let abandoned = table.values().filter_map(|it| Some((it.abandoned_since()?, it)));
        let oldest = abandoned.min_by_key(|(since, _)| *since);
        oldest.is_some_and(|(_, client)| client.evict())
    }
}
