//! A circuit breaker. After enough failures, no calls are sent for a while, and then a few trial calls
//! determine whether calls are resumed.
//!
//! ```text
//!             half of ≥ 20 calls in 30 s, or 5 in a row, fail
//!    Closed ───────────────────────────────────────────────────▶ Open, 5 s · 1.6^n
//!      ▲                                                          │  ▲
//!      │ all three trials pass          one fails, or is late     ▼  │
//!      └────────────────────────────── HalfOpen ─────────────────────┘
//! ```
//!
//! Only failures of the server are counted. An error response from the application is
//! [`Passed`](CallOutcome::Passed), and a call that was abandoned or that this side refused is
//! [`Cancelled`](CallOutcome::Cancelled).

use std::time::Duration;

use crate::backoff::grown;

/// The configuration of a [`Breaker`]: when it opens, and how it closes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// The time over which calls are counted; 30 s by default. The window moves in steps of a thirtieth
    /// of its length.
    pub window: Duration,
    /// The breaker opens when there were at least this many calls in the window and at least half of
    /// them failed; 20 by default. 0 is treated as 1.
    pub least_calls: u32,
    /// The breaker also opens after this many consecutive failures, over any period of time; 5 by
    /// default. 0 is treated as 1.
    pub failures_in_a_row: u32,
    /// How long the breaker is open the first time; 5 s by default. Each time the trials fail, it stays
    /// open 1.6 times as long as before. Every duration is varied by ± 20 %.
    pub open: Duration,
    /// The longest time that the breaker is open, before the variation; 300 s by default.
    pub max_open: Duration,
    /// The number of trial calls, all of which must pass; 3 by default. 0 is treated as 1.
    pub trials: u32,
    /// How long to wait for trial calls, from the start of the first one in flight; 30 s by default.
    /// After that time, they have failed.
    pub trial_timeout: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            least_calls: 20,
            failures_in_a_row: 5,
            open: Duration::from_secs(5),
            max_open: Duration::from_secs(300),
            trials: 3,
            trial_timeout: Duration::from_secs(30),
        }
    }
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The server has responded, possibly with an error of the application.
    Passed,
    /// The server did not respond, or could not be reached.
    Failed,
    /// The call was abandoned or never sent, so nothing is known about the server. A cancelled trial may
    /// be repeated.
    Cancelled,
}

/// The state of a [`Breaker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls are allowed.
    Closed,
    /// Calls are rejected.
    Open {
        /// The time from which trial calls are allowed.
        until: Duration,
    },
    /// A few trial calls are allowed.
    HalfOpen,
    /// Calls are rejected until the breaker is [reset](Breaker::reset).
    Isolated,
}

/// The permission to make a call. Its outcome must be [reported](Breaker::report). A trial call that is
/// never reported is considered failed after [`trial_timeout`](BreakerConfig::trial_timeout).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the outcome of the call must be reported"]
pub struct Permit {
    generation: u64,
}

/// The error of a call that the breaker does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The time for the next attempt, or `None` if it depends on the trial calls in flight or on a
    /// reset.
    pub retry_at: Option<Duration>,
}

/// A circuit breaker for the calls to one server.
///
/// Times are durations since any fixed moment and must not decrease. `random` is evenly distributed from
/// 0 to 1.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    stage: Stage,
    /// Increases with every change of stage. Outcomes of calls from earlier generations are ignored.
    generation: u64,
    /// How many times the breaker has opened since it was last closed.
    opened: u32,
}

#[derive(Clone, Debug)]
enum Stage {
    Closed { window: Box<Window>, in_a_row: u32 },
    Open { until: Duration },
    HalfOpen { under_way: u32, passed: u32, deadline: Duration },
    Isolated,
}

impl Breaker {
    /// Creates a closed breaker.
    pub fn new(config: BreakerConfig) -> Self {
        Self { stage: Stage::closed(), config, generation: 0, opened: 0 }
    }

    /// Requests permission for a call.
    ///
    /// # Errors
    /// The breaker is open or isolated, or all trial calls are in flight.
    pub fn acquire(&mut self, now: Duration, random: f64) -> Result<Permit, Rejected> {
        self.settle(now, random);
        let config = self.config;
        match &mut self.stage {
            Stage::Closed { .. } => {}
            Stage::Open { until } => return Err(Rejected { retry_at: Some(*until) }),
            Stage::Isolated => return Err(Rejected { retry_at: None }),
            Stage::HalfOpen { under_way, passed, deadline } => {
                if *under_way + *passed >= config.trials.max(1) {
                    return Err(Rejected { retry_at: None });
                }
                if *under_way == 0 {
                    *deadline = now.saturating_add(config.trial_timeout);
                }
                *under_way += 1;
            }
        }
        Ok(Permit { generation: self.generation })
    }

    /// Reports the outcome of a call. The outcome is ignored if the state has changed since the call was
    /// permitted.
    pub fn report(&mut self, permit: Permit, outcome: CallOutcome, now: Duration, random: f64) {
        self.settle(now, random);
        if permit.generation != self.generation {
            return;
        }
        let config = self.config;
        match (&mut self.stage, outcome) {
            (Stage::Closed { .. }, CallOutcome::Cancelled) => {}
            (Stage::Closed { window, in_a_row }, _) => {
                let failed = outcome == CallOutcome::Failed;
                *in_a_row = if failed { in_a_row.saturating_add(1) } else { 0 };
                let (calls, failures) = window.count(config.window, now, failed);
                let too_many = calls >= config.least_calls.max(1) && failures * 2 >= calls;
                if too_many || *in_a_row >= config.failures_in_a_row.max(1) {
                    self.open(now, random);
                }
            }
            (Stage::HalfOpen { .. }, CallOutcome::Failed) => self.open(now, random),
            (Stage::HalfOpen { under_way, passed, .. }, _) => {
                *under_way -= 1;
                *passed += u32::from(outcome == CallOutcome::Passed);
                if *passed >= config.trials.max(1) {
                    self.reset();
                }
            }
            // These stages issue no permits, so the generation cannot match.
            (Stage::Open { .. } | Stage::Isolated, _) => {}
        }
    }

    /// Returns the state.
    pub fn state(&mut self, now: Duration, random: f64) -> BreakerState {
        self.settle(now, random);
        match self.stage {
            Stage::Closed { .. } => BreakerState::Closed,
            Stage::Open { until } => BreakerState::Open { until },
            Stage::HalfOpen { .. } => BreakerState::HalfOpen,
            Stage::Isolated => BreakerState::Isolated,
        }
    }

    /// Rejects all calls until the breaker is [reset](Self::reset).
    pub fn isolate(&mut self) {
        self.enter(Stage::Isolated);
    }

    /// Closes the breaker and clears its history.
    pub fn reset(&mut self) {
        self.opened = 0;
        self.enter(Stage::closed());
    }

    /// Applies the changes of stage that depend only on time, as of the moment when they were due.
    fn settle(&mut self, now: Duration, random: f64) {
        match self.stage {
            Stage::HalfOpen { under_way: 1.., deadline, .. } if deadline <= now => {
                self.open(deadline, random);
            }
            _ => {}
        }
        match self.stage {
            Stage::Open { until } if until <= now => {
                self.enter(Stage::HalfOpen { under_way: 0, passed: 0, deadline: Duration::MAX });
            }
            _ => {}
        }
    }

    fn open(&mut self, now: Duration, random: f64) {
        let Self { config, opened, .. } = *self;
        let until = now.saturating_add(grown(config.open, config.max_open, opened, random));
        self.opened = opened.saturating_add(1);
        self.enter(Stage::Open { until });
    }

    fn enter(&mut self, stage: Stage) {
        self.generation += 1;
        self.stage = stage;
    }
}

impl Stage {
    fn closed() -> Self {
        Self::Closed { window: Box::default(), in_a_row: 0 }
    }
}

/// The number of slots into which the window is divided.
const SLOTS: usize = 30;

/// The calls and failures within the window, by time slot. Slots are numbered from time zero.
#[derive(Clone, Debug, Default)]
struct Window {
    slots: [Slot; SLOTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    number: u128,
    calls: u32,
    failures: u32,
}

impl Window {
    /// Counts a call, and returns the numbers of calls and failures in the window, including this one.
    fn count(&mut self, window: Duration, now: Duration, failed: bool) -> (u32, u32) {
        let width = (window / SLOTS as u32).as_nanos().max(1);
        let number = now.as_nanos() / width;
        if let Some(slot) = self.slots.get_mut((number % SLOTS as u128) as usize) {
            if slot.number != number {
                *slot = Slot { number, ..Slot::default() };
            }
            slot.calls = slot.calls.saturating_add(1);
            slot.failures = slot.failures.saturating_add(u32::from(failed));
        }
        let covered =
            self.slots.iter().filter(|slot| number - slot.number.min(number) < SLOTS as u128);
        covered.fold((0, 0), |(calls, failures): (u32, u32), slot| {
            (calls.saturating_add(slot.calls), failures.saturating_add(slot.failures))
        })
    }
}

#[cfg(test)]
mod tests;
