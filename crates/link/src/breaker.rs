//! A circuit breaker that many callers share.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tieline_proto::{Breaker, BreakerConfig, BreakerState, Outcome, Permit};
use tokio::time::Instant;

use crate::recovery::random;
use crate::sync::{Mutex, MutexGuard};

/// A [`Breaker`] for all who call the same other side. Clones share it. It has no task and no timer:
/// what time brings about is found when somebody asks.
#[derive(Clone)]
pub struct SharedBreaker(Arc<Shared>);

struct Shared {
    machine: Mutex<Breaker>,
    begun: Instant,
}

impl SharedBreaker {
    /// One that is closed.
    pub fn new(config: BreakerConfig) -> Self {
        let machine = Mutex::new(Breaker::new(config));
        Self(Arc::new(Shared { machine, begun: Instant::now() }))
    }

    /// Asks to make a call. Say what became of it; dropping the permit says that the call was given up,
    /// which is no failure.
    ///
    /// # Errors
    /// It is open, isolated, or as many trials are under way as there may be.
    pub fn acquire(&self) -> Result<CallPermit, BreakerOpen> {
        let now = self.0.begun.elapsed();
        match self.machine().acquire(now, random()) {
            Ok(permit) => Ok(CallPermit { breaker: self.clone(), permit: Some(permit) }),
            Err(rejected) => {
                let retry_after = rejected.retry_at.map(|at| at.saturating_sub(now));
                Err(BreakerOpen { retry_after })
            }
        }
    }

    /// Where it stands. The time in [`BreakerState::Open`] is that since it was made.
    pub fn state(&self) -> BreakerState {
        self.machine().state(self.0.begun.elapsed(), random())
    }

    /// In how long trying again may be worth it, if it is open.
    pub fn retry_after(&self) -> Option<Duration> {
        let now = self.0.begun.elapsed();
        match self.machine().state(now, random()) {
            BreakerState::Open { until } => Some(until.saturating_sub(now)),
            _ => None,
        }
    }

    /// Lets nothing through until it is [reset](Self::reset).
    pub fn isolate(&self) {
        self.machine().isolate();
    }

    /// Closes it, and forgets all that was.
    pub fn reset(&self) {
        self.machine().reset();
    }

    fn machine(&self) -> MutexGuard<'_, Breaker> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedBreaker").field(&self.state()).finish()
    }
}

/// A call that may be made. Dropping it says that the call was given up.
#[must_use = "dropping it says that the call was given up"]
pub struct CallPermit {
    breaker: SharedBreaker,
    permit: Option<Permit>,
}

impl CallPermit {
    /// The other side has answered, be it with an error of the application's.
    pub fn passed(mut self) {
        self.report(Outcome::Passed);
    }

    /// It has not, or could not be reached.
    pub fn failed(mut self) {
        self.report(Outcome::Failed);
    }

    fn report(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            let now = self.breaker.0.begun.elapsed();
            self.breaker.machine().report(permit, outcome, now, random());
        }
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.report(Outcome::Cancelled);
    }
}

impl fmt::Debug for CallPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallPermit").finish_non_exhaustive()
    }
}

/// A call that was not made, because too many before it had failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerOpen {
    /// When trying again may be worth it; `None`: when it was reset, or the trials under way have ended.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for BreakerOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.retry_after {
            Some(after) => write!(f, "too much has failed; it is tried again in {after:?}"),
            None => f.write_str("too much has failed; it is not tried now"),
        }
    }
}

impl std::error::Error for BreakerOpen {}
