//! A circuit breaker shared by many callers.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tieline_proto::{Breaker, BreakerConfig, BreakerState, CallOutcome, Permit, rounded};
use tokio::time::Instant;

use crate::recovery::random;
use crate::sync::{Mutex, MutexGuard};

/// A [`Breaker`] shared by all callers of one server. Clones refer to the same breaker.
///
/// It has no task and no timer: changes that depend on time take effect at the next method call.
#[derive(Clone)]
pub struct SharedBreaker(Arc<Shared>);

struct Shared {
    machine: Mutex<Breaker>,
    begun: Instant,
}

impl SharedBreaker {
    /// Creates a closed breaker.
    pub fn new(config: BreakerConfig) -> Self {
        let machine = Mutex::new(Breaker::new(config));
        Self(Arc::new(Shared { machine, begun: Instant::now() }))
    }

    /// Requests permission for a call. Report the call's outcome on the permit; dropping the permit means
    /// that the call was abandoned, which does not count as a failure.
    ///
    /// # Errors
    /// The breaker is open or isolated, or all trial calls are in flight.
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

    /// Returns the state. The time in [`BreakerState::Open`] is relative to the creation of the breaker.
    pub fn state(&self) -> BreakerState {
        self.machine().state(self.0.begun.elapsed(), random())
    }

    /// Returns how long to wait before trying again, if the breaker is open.
    pub fn retry_after(&self) -> Option<Duration> {
        let now = self.0.begun.elapsed();
        match self.machine().state(now, random()) {
            BreakerState::Open { until } => Some(until.saturating_sub(now)),
            _ => None,
        }
    }

    /// Rejects all calls until the breaker is [reset](Self::reset).
    pub fn isolate(&self) {
        self.machine().isolate();
    }

    /// Closes the breaker and clears its history.
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

/// The permission to make a call. Dropping it reports that the call was abandoned.
#[must_use = "dropping the permit reports that the call was abandoned"]
pub struct CallPermit {
    breaker: SharedBreaker,
    permit: Option<Permit>,
}

impl CallPermit {
    /// Reports that the server has responded, possibly with an error of the application.
    pub fn passed(mut self) {
        self.report(CallOutcome::Passed);
    }

    /// Reports that the server did not respond, or could not be reached.
    pub fn failed(mut self) {
        self.report(CallOutcome::Failed);
    }

    fn report(&mut self, outcome: CallOutcome) {
        if let Some(permit) = self.permit.take() {
            let now = self.breaker.0.begun.elapsed();
            self.breaker.machine().report(permit, outcome, now, random());
        }
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.report(CallOutcome::Cancelled);
    }
}

impl fmt::Debug for CallPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallPermit").finish_non_exhaustive()
    }
}

/// The error of a call that was rejected because too many calls before it had failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerOpen {
    /// How long to wait before trying again; `None` if that depends on the trial calls in flight, or on a
    /// reset.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for BreakerOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.retry_after {
            Some(after) => {
                write!(f, "too many calls have failed; try again in {:?}", rounded(after))
            }
            None => f.write_str("too many calls have failed; no more calls are allowed at present"),
        }
    }
}

impl std::error::Error for BreakerOpen {}
