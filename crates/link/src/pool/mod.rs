//! Lines that are kept for the next who needs one.
//!
//! `core` knows who has which and who waits; `line` knows when another may have it; here lines are made.

mod config;
mod core;
mod error;
mod line;
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

use self::core::{Acquire, Core, Lease};
use crate::recovery::random;
use crate::{CallPermit, SharedBreaker};
use line::Line;
use stats::Totals;

/// Lines to one place, each used by one caller at a time and kept for the next.
///
/// It has no task and no timer of its own: lines that have expired are closed when somebody comes for a
/// line, and by [`maintain`](Self::maintain) if that is driven. Dropping the pool closes the idle ones at
/// once; those in use are closed when they come back.
pub struct Pool {
    connector: Arc<dyn DynConnector>,
    config: PoolConfig,
    breaker: Option<SharedBreaker>,
    core: Arc<Core<Line>>,
    totals: Arc<Totals>,
}

impl Pool {
    /// An empty one: the first line is connected when somebody needs it.
    ///
    /// # Errors
    /// The first field of `config` that is out of bounds.
    pub fn new(connector: Arc<dyn DynConnector>, config: PoolConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let core = Arc::new(Core::new(config.limits()));
        Ok(Self { connector, config, breaker: None, core, totals: Arc::default() })
    }

    /// Asks `breaker` before each attempt to connect, and tells it what came of it; one that is given up,
    /// or that [`acquire_timeout`](PoolConfig::acquire_timeout) cuts short, is no failure.
    #[must_use]
    pub fn with_breaker(mut self, breaker: SharedBreaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// A line that nobody else has, until it is [given back](Pooled::give_back) or dropped: the one used
    /// last, or a new one. Those who wait are served in the order in which they came.
    ///
    /// Cancel-safe: dropped half-way, it passes on what it was given already, and leaves its place to
    /// the next. Needs a tokio runtime with its timer, if there is anything to wait for.
    ///
    /// # Errors
    /// Each cause has its own [`PoolError`].
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<Pooled, PoolError>> + Send + '_ {
        let at = Location::caller();
        async move {
            let mut lease = self.core.try_acquire(at);
            let fresh = lease.as_mut().and_then(|lease| self.fresh(lease));
            let (line, lease) = match (fresh, lease) {
                (Some(line), Some(lease)) => (line, lease),
                (_, lease) => self.acquire(lease, at).await?,
            };
            self.totals.taken.add_one();
            Ok(Pooled { line, lease, untold: Untold(Some(self.totals.clone())) })
        }
    }

    /// How it is used, and what has happened.
    pub fn stats(&self) -> PoolStats {
        self.totals.with(self.core.usage())
    }

    /// Where the breaker stands that was [given](Self::with_breaker) to it.
    pub fn breaker(&self) -> Option<&SharedBreaker> {
        self.breaker.as_ref()
    }

    /// Keeps the pool in order for as long as it is driven, twice a minute or more often where the
    /// configured times are shorter: closes what has expired, a child in stages; connects up to
    /// [`min_idle`](PoolConfig::min_idle); warns of what is held for long.
    ///
    /// It completes only when the pool was [closed](Self::close), within half a minute. Drop it at any
    /// time; it may be driven anew.
    pub async fn maintain(&self) {
        let PoolConfig { idle_timeout, lifetime, held_warning, .. } = self.config;
        let period = idle_timeout.min(lifetime).min(held_warning).min(MAINTENANCE);
        while !self.core.is_closed() {
            self.core.warn_of_overdue();
            let expired = self.core.take_expired();
            stop_all(expired).await;
            self.connect_ahead().await;
            sleep(period).await;
        }
    }

    /// Gives out nothing any more, and ends the idle lines, children in stages and all at once. Lines in
    /// use are closed when they come back.
    ///
    /// Dropping the future ends at once what has not ended.
    pub async fn close(&self) {
        stop_all(self.core.close()).await;
    }

    /// A line that was in use a moment ago, and so need not be checked.
    fn fresh(&self, lease: &mut Lease<Line>) -> Option<Line> {
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
        lease: Option<Lease<Line>>,
        at: &'static Location<'static>,
    ) -> Result<(Line, Lease<Line>), PoolError> {
        let limit = self.config.acquire_timeout;
        let acquired = timeout(limit, async {
            let mut lease = match lease {
                Some(lease) => lease,
                None => {
                    self.core.warn_of_overdue();
                    Acquire::new(&self.core, at).await?
                }
            };
            let line = match self.usable(&mut lease).await {
                Some(line) => line,
                None => self.connect(&mut lease).await?,
            };
            Ok((line, lease))
        });
        acquired.await.unwrap_or_else(|_| {
            self.core.warn_of_overdue();
            self.totals.timeouts.add_one();
            Err(PoolError::TimedOut { limit, longest: self.core.longest_held() })
        })
    }

    /// The line in the slot, if it is well.
    async fn usable(&self, lease: &mut Lease<Line>) -> Option<Line> {
        if let Some(fresh) = self.fresh(lease) {
            return Some(fresh);
        }
        if lease.is_old() {
            let old = lease.take_line()?;
            self.core.count_expired();
            drop(old);
            return None;
        }
        let is_well = lease.looked_at()?.check().await;
        let line = lease.take_line()?;
        if is_well {
            return Some(line);
        }
        self.totals.broken.add_one();
        None
    }

    async fn connect(&self, lease: &mut Lease<Line>) -> Result<Line, PoolError> {
        let permit = self.breaker.as_ref().map(SharedBreaker::acquire).transpose();
        let permit = permit.map_err(|open| {
            self.totals.rejected.add_one();
            PoolError::BreakerOpen(open)
        })?;
        match self.connector.connect().await {
            Ok(channel) => {
                permit.into_iter().for_each(CallPermit::passed);
                self.totals.connected.add_one();
                let lifetime = self.config.lifetime.as_secs_f64() * (0.9 + 0.2 * random());
                let lifetime = Duration::try_from_secs_f64(lifetime).unwrap_or(Duration::MAX);
                lease.retire_at = Instant::now().checked_add(lifetime);
                Ok(Line::new(channel))
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
            while let Some(mut lease) = self.core.try_vacant(at) {
                // Whoever needs a line will be told why there is none.
                match timeout(self.config.acquire_timeout, self.connect(&mut lease)).await {
                    Ok(Ok(line)) => lease.give_back(line),
                    _ => return,
                }
            }
        }
    }
}

/// How often it is looked after at least.
const MAINTENANCE: Duration = Duration::from_secs(30);

/// Ends the lines, all at once. Their slots are free when they have ended.
async fn stop_all(leases: Vec<Lease<Line>>) {
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
        drop(self.core.close());
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        f.debug_struct("Pool").field("config", &self.config).field("stats", &stats).finish()
    }
}

/// A line of a [`Pool`], for as long as it is held.
///
/// [Give it back](Self::give_back) when nothing is under way on it any more. Dropped without that, as it
/// is by a `?` or a cancelled call, it is closed: nobody else gets the answer to what was asked here.
#[must_use = "dropping it closes the line"]
pub struct Pooled {
    // In this order they are dropped: the slot is free when the line has ended.
    line: Line,
    lease: Lease<Line>,
    untold: Untold,
}

impl Pooled {
    /// Where messages go out.
    pub fn sender(&mut self) -> &mut Box<dyn Sender> {
        &mut self.line.sender
    }

    /// Where messages come in.
    pub fn receiver(&mut self) -> &mut Box<dyn Receiver> {
        &mut self.line.receiver
    }

    /// Both at once.
    pub fn halves(&mut self) -> (&mut Box<dyn Sender>, &mut Box<dyn Receiver>) {
        (&mut self.line.sender, &mut self.line.receiver)
    }

    /// Who is on the other end, how much went, and whether it has ended.
    pub fn control(&self) -> &Control {
        &self.line.control
    }

    /// Gives the line back for others to use: nothing is under way on it, and nothing is still to come.
    ///
    /// It is looked at all the same, and closed if it has ended, if something is unsent, or if more has
    /// come in than was taken, be it a part of a message. Outside of a tokio runtime none of that can be
    /// seen, and the line is closed.
    pub fn give_back(self) {
        let Self { mut line, lease, mut untold } = self;
        if line.is_clean() {
            untold.0 = None;
            lease.give_back(line);
        }
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").field("control", &self.line.control).finish_non_exhaustive()
    }
}

/// Counts a line that is not used again.
struct Untold(Option<Arc<Totals>>);

impl Drop for Untold {
    fn drop(&mut self) {
        if let Some(totals) = &self.0 {
            totals.dirty.add_one();
        }
    }
}
