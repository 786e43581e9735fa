//! The cached keys of an issuer, and when they are fetched again.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::key_set::KeySet;
use crate::lock::lock;
use crate::task::Task;
use tieline_transport::WarnThrottle;

/// After this time, the keys are fetched again when they are needed.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// After this time, the keys are not used any more.
const USABLE: Duration = Duration::from_secs(60 * 60);
/// The minimum time between two fetches because of an unknown key, so that hostile tokens cannot cause
/// more.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(30);
/// The minimum time between two fetches if there are no fresh keys.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How long a fetch may take.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

pub(super) type Fetching = Pin<Box<dyn Future<Output = Result<KeySet, String>> + Send>>;

/// The keys of an issuer. At most one fetch is in progress. It does not end with the request that needs
/// it, so that a client cannot prevent it by disconnecting.
pub(super) struct Keys {
    issuer: Arc<str>,
    fetch: Box<dyn Fn() -> Fetching + Send + Sync>,
    state: watch::Sender<State>,
    warnings: Arc<WarnThrottle>,
    /// The last fetch.
    task: Mutex<Option<Task>>,
}

#[derive(Clone, Default)]
struct State {
    kept: Option<Kept>,
    /// When the last fetch began.
    tried: Option<Instant>,
    is_fetching: bool,
}

#[derive(Clone)]
struct Kept {
    keys: Arc<KeySet>,
    since: Instant,
}

impl Keys {
    pub(super) fn new(issuer: &str, fetch: impl Fn() -> Fetching + Send + Sync + 'static) -> Self {
        let warnings = WarnThrottle::new(|count| {
            tracing::warn!(count, "fetching the keys of the OAuth issuer kept failing");
        });
        let (state, task) = (watch::Sender::new(State::default()), Mutex::default());
        let (fetch, warnings) = (Box::new(fetch), Arc::new(warnings));
        Self { issuer: issuer.into(), fetch, state, warnings, task }
    }

    /// Starts a fetch, unless one is in progress or began less than `interval` ago.
    pub(super) fn start(&self, interval: Duration) {
        let is_due = self.state.send_if_modified(|state| {
            let is_due =
                !state.is_fetching && state.tried.is_none_or(|it| it.elapsed() >= interval);
            if is_due {
                (state.is_fetching, state.tried) = (true, Some(Instant::now()));
            }
            is_due
        });
        if !is_due {
            return;
        }
        let (fetching, state) = ((self.fetch)(), self.state.clone());
        let (issuer, warnings) = (self.issuer.clone(), self.warnings.clone());
        let task = tokio::spawn(async move {
            let fetched = timeout(FETCH_LIMIT, fetching).await;
            let fetched = fetched.unwrap_or_else(|_| {
                Err(format!("it took longer than {} s", FETCH_LIMIT.as_secs()))
            });
            let kept = match fetched {
                Ok(keys) => {
                    tracing::debug!(keys = keys.len(), "fetched the keys of {issuer}");
                    Some(Kept { keys: Arc::new(keys), since: Instant::now() })
                }
                Err(why) => {
                    let text = format!("cannot fetch the keys of the OAuth issuer {issuer}: {why}");
                    match warnings.admit(std::time::Instant::now()) {
                        Some(unreported) => tracing::warn!(unreported, "{text}"),
                        None => tracing::debug!("{text}"),
                    }
                    None
                }
            };
            state.send_modify(|state| {
                state.is_fetching = false;
                state.kept = kept.or_else(|| state.kept.take());
            });
        });
        *lock(&self.task) = Some(Task(task.abort_handle()));
    }

    /// Returns the keys, and fetches them first if there are none that can be used. Keys that are not
    /// fresh are returned while newer ones are fetched. Returns `None` if there are no keys.
    pub(super) async fn current(&self) -> Option<Arc<KeySet>> {
        if let Some(keys) = self.kept(FRESH) {
            return Some(keys);
        }
        self.start(RETRY_INTERVAL);
        match self.kept(USABLE) {
            Some(keys) => Some(keys),
            None => {
                self.settled().await;
                self.kept(USABLE)
            }
        }
    }

    /// Returns newer keys than these, which lack the key of a token. Returns `None` if there are none or
    /// they were fetched too recently.
    pub(super) async fn newer(&self, than: &Arc<KeySet>) -> Option<Arc<KeySet>> {
        self.start(UNKNOWN_INTERVAL);
        self.settled().await;
        self.kept(USABLE).filter(|keys| !Arc::ptr_eq(keys, than))
    }

    /// Returns the keys if they are younger than `age`.
    fn kept(&self, age: Duration) -> Option<Arc<KeySet>> {
        let state = self.state.borrow();
        let kept = state.kept.as_ref().filter(|kept| kept.since.elapsed() < age);
        kept.map(|kept| kept.keys.clone())
    }

    /// Waits until no fetch is in progress.
    async fn settled(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| !state.is_fetching).await;
    }
}

#[cfg(test)]
mod tests;
