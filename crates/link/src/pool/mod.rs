//! A pool of lines.
//!
//! `slots` tracks which lines are held and which callers wait, `pooled_line` checks whether a line can
//! be reused, and this module connects lines.

mod config;
mod error;
mod pooled_line;
mod slots;
mod stats;

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tieline_transport::{BoxFuture, ConfigError, Control, DynConnector, Receiver, Sender};
use tokio::time::{Instant, sleep, timeout};

pub use config::PoolConfig;
pub use error::PoolError;
pub use stats::PoolStats;

use self::pooled_line::PooledLine;
use self::slots::{Acquire, Lease, Slots};
use crate::breaker::{CallPermit, SharedBreaker};
use crate::recovery::random;
use crate::retries::Retries;
use stats::Totals;

/// A pool of lines to one endpoint, each used by one caller at a time and kept for the next.
///
/// The pool has no task and no timer: expired lines are closed when a caller requests a line, and by
/// [`maintain`](Self::maintain) while that is running. Dropping the pool closes idle lines at once, and
/// those in use when they are given back.
pub struct Pool {
    connector: Arc<dyn DynConnector>,
    config: PoolConfig,
    breaker: Option<SharedBreaker>,
    retries: Option<Retries>,
    slots: Arc<Slots<PooledLine>>,
    totals: Arc<Totals>,
}

impl Pool {
    /// Creates an empty pool. Lines are connected when they are needed.
    ///
    /// # Errors
    /// The first field of `config` that is out of bounds.
    pub fn new(connector: Arc<dyn DynConnector>, config: PoolConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let slots = Arc::new(Slots::new(config.limits()));
        Ok(Self { connector, config, breaker: None, retries: None, slots, totals: Arc::default() })
    }

    /// Uses `breaker` for attempts to connect, and reports their outcomes to it. A cancelled attempt
    /// does not count as a failure, even if [`acquire_timeout`](PoolConfig::acquire_timeout) cancelled
    /// it.
    #[must_use]
    pub fn with_breaker(mut self, breaker: SharedBreaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Retries attempts to connect whose error is
    /// [retryable](tieline_transport::TransportError::is_retryable), as long as the budget allows it,
    /// and at most until [`acquire_timeout`](PoolConfig::acquire_timeout). Give all pools for one server
    /// the same budget, so that their retries together do not make an overload worse. Without this, each
    /// caller gets the first error.
    #[must_use]
    pub fn with_retries(mut self, retries: Retries) -> Self {
        self.retries = Some(retries);
        self
    }

    /// Returns a line for exclusive use until it is [given back](Pooled::give_back) or dropped: the most
    /// recently used idle line, or a new one. Waiting callers are served in order.
    ///
    /// Cancel-safe: if the future is dropped, a line that was already assigned to it is passed on to the
    /// next caller. Requires a tokio runtime with its timer if there is anything to wait for.
    ///
    /// # Errors
    /// Each cause has its own [`PoolError`].
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<Pooled, PoolError>> + Send + '_ {
        let at = Location::caller();
        async move {
            let mut lease = self.slots.try_acquire(at);
            let fresh = lease.as_mut().and_then(|lease| self.fresh(lease));
            let (line, lease) = match (fresh, lease) {
                (Some(line), Some(lease)) => (line, lease),
                (_, lease) => self.acquire(lease, at).await?,
            };
            self.totals.taken.add_one();
            Ok(Pooled { line, lease, unreported: Unreported(Some(self.totals.clone())) })
        }
    }

    /// Returns the current usage and the counters.
    pub fn stats(&self) -> PoolStats {
        self.totals.with(self.slots.usage())
    }

    /// Returns the breaker that was set by [`with_breaker`](Self::with_breaker).
    pub fn breaker(&self) -> Option<&SharedBreaker> {
        self.breaker.as_ref()
    }

    /// Maintains the pool as long as the future is driven: every 30 s, or more often if the configured
    /// times are shorter. It closes expired lines (child processes in stages), connects up to
    /// [`min_idle`](PoolConfig::min_idle) lines, and warns of lines that are held for too long.
    ///
    /// It completes within 30 s after the pool was [closed](Self::close). It may be dropped at any time,
    /// and driven again.
    pub async fn maintain(&self) {
        let PoolConfig { idle_timeout, lifetime, held_warning, .. } = self.config;
        let period = idle_timeout.min(lifetime).min(held_warning).min(MAINTENANCE);
        while !self.slots.is_closed() {
            self.slots.warn_of_overdue();
            let expired = self.slots.take_expired();
            stop_all(expired).await;
            self.connect_ahead().await;
            sleep(period).await;
        }
    }

    /// Stops lending lines, and ends the idle ones concurrently, child processes in stages. Lines in use
    /// are closed when they are given back.
    ///
    /// Dropping the future ends the remaining idle lines at once.
    pub async fn close(&self) {
        stop_all(self.slots.close()).await;
    }

    /// Takes the line of the lease if it was in use so recently that it needs no check.
    fn fresh(&self, lease: &mut Lease<PooledLine>) -> Option<PooledLine> {
        if lease.idle_for() > self.config.check_after || lease.is_old() {
            return None;
        }
        let line = lease.take_line()?;
        if line.is_open() {
            return Some(line);
        }
        self.totals.broken.add_one();
        None
    }

    #[cold]
    async fn acquire(
        &self,
        lease: Option<Lease<PooledLine>>,
        at: &'static Location<'static>,
    ) -> Result<(PooledLine, Lease<PooledLine>), PoolError> {
        let limit = self.config.acquire_timeout;
        let acquired = timeout(limit, async {
            let mut lease = match lease {
                Some(lease) => lease,
                None => {
                    self.slots.warn_of_overdue();
                    Acquire::new(&self.slots, at).await?
                }
            };
            let line = match self.usable(&mut lease).await {
                Some(line) => line,
                None => self.connect(&mut lease).await?,
            };
            Ok((line, lease))
        });
        acquired.await.unwrap_or_else(|_| {
            self.slots.warn_of_overdue();
            self.totals.timeouts.add_one();
            Err(PoolError::TimedOut { limit, longest: self.slots.longest_held() })
        })
    }

    /// Takes the line of the lease if it is usable.
    async fn usable(&self, lease: &mut Lease<PooledLine>) -> Option<PooledLine> {
        if let Some(fresh) = self.fresh(lease) {
            return Some(fresh);
        }
        if lease.is_old() {
            let old = lease.take_line()?;
            self.slots.count_expired();
            drop(old);
            return None;
        }
        let is_well = lease.line_to_check()?.check().await;
        let line = lease.take_line()?;
        if is_well {
            return Some(line);
        }
        self.totals.broken.add_one();
        None
    }

    async fn connect(&self, lease: &mut Lease<PooledLine>) -> Result<PooledLine, PoolError> {
        let again =
            |error: &PoolError| matches!(error, PoolError::Connect(error) if error.is_retryable());
        let line = match &self.retries {
            Some(retries) => retries.run(|| self.try_connect(), again).await?,
            None => self.try_connect().await?,
        };
        let lifetime = self.config.lifetime.as_secs_f64() * (0.9 + 0.2 * random());
        let lifetime = Duration::try_from_secs_f64(lifetime).unwrap_or(Duration::MAX);
        lease.retire_at = Instant::now().checked_add(lifetime);
        Ok(line)
    }

    async fn try_connect(&self) -> Result<PooledLine, PoolError> {
        let permit = self.breaker.as_ref().map(SharedBreaker::acquire).transpose();
        let permit = permit.map_err(|open| {
            self.totals.rejected.add_one();
            PoolError::BreakerOpen(open)
        })?;
        match self.connector.connect().await {
            Ok(channel) => {
                permit.into_iter().for_each(CallPermit::passed);
                self.totals.connected.add_one();
                Ok(PooledLine::new(channel))
            }
            Err(error) => {
                permit.into_iter().for_each(CallPermit::failed);
                self.totals.connect_failures.add_one();
                Err(PoolError::Connect(error))
            }
        }
    }

    #[track_caller]
    fn connect_ahead(&self) -> impl Future<Output = ()> + Send + '_ {
        let at = Location::caller();
        async move {
            while let Some(mut lease) = self.slots.try_vacant(at) {
                // A caller that needs a line will get the error.
                match timeout(self.config.acquire_timeout, self.connect(&mut lease)).await {
                    Ok(Ok(line)) => lease.give_back(line),
                    _ => return,
                }
            }
        }
    }
}

/// The longest interval between two rounds of maintenance.
const MAINTENANCE: Duration = Duration::from_secs(30);

/// Ends the lines concurrently. Their slots are free once they have ended.
async fn stop_all(leases: Vec<Lease<PooledLine>>) {
    let mut stops: Vec<BoxFuture<'static, ()>> = Vec::with_capacity(leases.len());
    for mut lease in leases {
        stops.push(Box::pin(async move {
            if let Some(line) = lease.take_line() {
                line.stop().await;
            }
        }));
    }
    std::future::poll_fn(|cx| {
        stops.retain_mut(|stop| Pin::new(stop).poll(cx).is_pending());
        if stops.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.slots.close());
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        f.debug_struct("Pool").field("config", &self.config).field("stats", &stats).finish()
    }
}

/// A line borrowed from a [`Pool`].
///
/// [Give it back](Self::give_back) when no requests are in flight on it. If it is dropped instead, for
/// example by a `?` or a cancelled call, the line is closed, so that no other caller receives the
/// responses to this caller's requests.
#[must_use = "dropping it closes the line"]
pub struct Pooled {
    // The fields are dropped in this order, so that the slot is freed after the line has ended.
    line: PooledLine,
    lease: Lease<PooledLine>,
    unreported: Unreported,
}

impl Pooled {
    /// Returns the outgoing half.
    pub fn sender(&mut self) -> &mut Box<dyn Sender> {
        &mut self.line.sender
    }

    /// Returns the incoming half.
    pub fn receiver(&mut self) -> &mut Box<dyn Receiver> {
        &mut self.line.receiver
    }

    /// Returns both halves.
    pub fn halves(&mut self) -> (&mut Box<dyn Sender>, &mut Box<dyn Receiver>) {
        (&mut self.line.sender, &mut self.line.receiver)
    }

    /// Returns the line's control: its peer, its traffic, and whether it has ended.
    pub fn control(&self) -> &Control {
        &self.line.control
    }

    /// Gives the line back for other callers. The caller guarantees that no requests are in flight on it.
    ///
    /// The line is checked, and closed if it has ended, or if anything is unsent or unread, even part of
    /// a message. Outside a tokio runtime this cannot be checked, and the line is closed.
    pub fn give_back(self) {
        let Self { mut line, lease, mut unreported } = self;
        if line.is_clean() {
            unreported.0 = None;
            lease.give_back(line);
        }
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").field("control", &self.line.control).finish_non_exhaustive()
    }
}

/// Counts the line as dirty when it is dropped.
struct Unreported(Option<Arc<Totals>>);

impl Drop for Unreported {
    fn drop(&mut self) {
        if let Some(totals) = &self.0 {
            totals.dirty.add_one();
        }
    }
}
