//! Whether to call at all: after enough failures nothing is sent for a while, and then a few trials
//! decide whether all may go again (the circuit breaker pattern).
//!
//! ```text
//!             half of ≥ 20 calls in 30 s, or 5 in a row, fail
//!    Closed ───────────────────────────────────────────────────▶ Open, 5 s · 1.6^n
//!      ▲                                                          │  ▲
//!      │ all three trials pass          one fails, or is late     ▼  │
//!      └────────────────────────────── HalfOpen ─────────────────────┘
//! ```
//!
//! It decides about calls. It is told nothing of what is no failure of the other side's: an error that
//! the application answers with has [`Passed`](Outcome::Passed), a call that was given up or that we
//! ourselves refused is [`Cancelled`](Outcome::Cancelled).

use std::time::Duration;

use crate::backoff::grown;

/// When a breaker opens, and how it closes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Over which time calls are counted; 30 s by default. It moves on by thirtieths.
    pub window: Duration,
    /// So many calls in the window, half of them failed, open it; 20 by default. 0 counts as 1.
    pub least_calls: u32,
    /// So many failures one after the other open it, in whatever time; 5 by default. 0 counts as 1.
    pub failures_in_a_row: u32,
    /// How long it is open at first, 1.6 times as long whenever the trials fail, and each time a fifth
    /// more or less; 5 s by default.
    pub open: Duration,
    /// The longest that it is open, the spread not counted; 300 s by default.
    pub max_open: Duration,
    /// How many trials there are, all of which must pass; 3 by default. 0 counts as 1.
    pub trials: u32,
    /// The longest that a trial is waited for, from when the first of those under way began; 30 s by
    /// default. One that is late has failed.
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

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The other side has answered, be it with an error of the application's.
    Passed,
    /// It has not, or could not be reached.
    Failed,
    /// It was given up, or never sent: that says nothing of the other side. A trial that ends so may be
    /// made again.
    Cancelled,
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go.
    Closed,
    /// None goes.
    Open {
        /// From this moment on there are trials.
        until: Duration,
    },
    /// A few go as trials.
    HalfOpen,
    /// None goes until somebody resets it by hand.
    Isolated,
}

/// A call that may be made. Whatever becomes of it has to be [reported](Breaker::report): a trial that
/// never is counts as failed when it is late.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what became of the call has to be reported"]
pub struct Permit {
    generation: u64,
}

/// A call that may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// When it may be worth trying again; `None`: when somebody resets the breaker, or the trials that
    /// are under way have ended.
    pub retry_at: Option<Duration>,
}

/// Time is that since any fixed moment and does not go back; `random` is evenly spread from 0 to 1.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    stage: Stage,
    /// Goes up with every change of stage: results of calls that began before it move nothing.
    generation: u64,
    /// How many times it has opened since it was last closed.
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
    /// One that is closed.
    pub fn new(config: BreakerConfig) -> Self {
        Self { stage: Stage::closed(), config, generation: 0, opened: 0 }
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// It is open or isolated, or as many trials are under way as there may be.
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

    /// What became of a call. One that began before the stage changed moves nothing.
    pub fn report(&mut self, permit: Permit, outcome: Outcome, now: Duration, random: f64) {
        self.settle(now, random);
        if permit.generation != self.generation {
            return;
        }
        let config = self.config;
        match (&mut self.stage, outcome) {
            (Stage::Closed { .. }, Outcome::Cancelled) => {}
            (Stage::Closed { window, in_a_row }, _) => {
                let failed = outcome == Outcome::Failed;
                *in_a_row = if failed { in_a_row.saturating_add(1) } else { 0 };
                let (calls, failures) = window.count(config.window, now, failed);
                let too_many = calls >= config.least_calls.max(1) && failures * 2 >= calls;
                if too_many || *in_a_row >= config.failures_in_a_row.max(1) {
                    self.open(now, random);
                }
            }
            (Stage::HalfOpen { .. }, Outcome::Failed) => self.open(now, random),
            (Stage::HalfOpen { under_way, passed, .. }, _) => {
                *under_way -= 1;
                *passed += u32::from(outcome == Outcome::Passed);
                if *passed >= config.trials.max(1) {
                    self.reset();
                }
            }
            // No permit is of their generation.
            (Stage::Open { .. } | Stage::Isolated, _) => {}
        }
    }

    /// Where it stands.
    pub fn state(&mut self, now: Duration, random: f64) -> BreakerState {
        self.settle(now, random);
        match self.stage {
            Stage::Closed { .. } => BreakerState::Closed,
            Stage::Open { until } => BreakerState::Open { until },
            Stage::HalfOpen { .. } => BreakerState::HalfOpen,
            Stage::Isolated => BreakerState::Isolated,
        }
    }

    /// Lets nothing through until it is [reset](Self::reset).
    pub fn isolate(&mut self) {
        self.enter(Stage::Isolated);
    }

    /// Closes it, and forgets all that was.
    pub fn reset(&mut self) {
        self.opened = 0;
        self.enter(Stage::closed());
    }

    /// What time alone brings about, as of the moment when it did.
    fn settle(&mut self, now: Duration, random: f64) {
        if let Stage::HalfOpen { under_way: 1.., deadline, .. } = self.stage
            && deadline <= now
        {
            self.open(deadline, random);
        }
        if let Stage::Open { until } = self.stage
            && until <= now
        {
            self.enter(Stage::HalfOpen { under_way: 0, passed: 0, deadline: Duration::MAX });
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

/// How finely the window moves on.
const SLOTS: usize = 30;

/// Calls and failures of the slots that the window covers, counted in slots since the first moment.
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
    /// Counts a call, and gives the calls and failures of the window with it.
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
