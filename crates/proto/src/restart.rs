//! Whether a child that ended is started again, and when (the restart intensity of Erlang/OTP's
//! supervisors).

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{Backoff, BackoffConfig};

/// After which ends a child is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After none.
    #[default]
    Never,
    /// After one that was a failure: a status other than success, a signal, half a message.
    OnFailure,
    /// After every one.
    Always,
}

impl RestartPolicy {
    /// Every policy, in the order they are documented.
    pub const ALL: [Self; 3] = [Self::Never, Self::OnFailure, Self::Always];

    /// The name that stands in options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "no",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RestartPolicy {
    type Err = UnknownRestartPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownRestartPolicy> {
        Self::ALL.into_iter().find(|policy| policy.name() == name).ok_or(UnknownRestartPolicy)
    }
}

/// The text names no restart policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRestartPolicy;

impl fmt::Display for UnknownRestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such restart policy; there are no, on-failure and always")
    }
}

impl std::error::Error for UnknownRestartPolicy {}

/// At most so many restarts
const INTENSITY: usize = 5;
/// within this time.
const PERIOD: Duration = Duration::from_secs(10);

/// A child that ran for so long was well: the next wait is a first one again.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// What to do now that a child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this time.
    Restart {
        /// How long to wait first.
        after: Duration,
    },
    /// Leave it: the policy does not ask for another.
    Leave,
    /// Give up: it was started again five times within ten seconds.
    Failed,
}

/// Decides after each end of a child. Time is that since any fixed moment.
#[derive(Clone, Debug)]
pub struct Restarts {
    policy: RestartPolicy,
    backoff: Backoff,
    /// When it was started again, within the period.
    recent: VecDeque<Duration>,
}

impl Restarts {
    /// The child runs for the first time.
    pub const fn new(policy: RestartPolicy) -> Self {
        let backoff = Backoff::new(BackoffConfig::LOCAL);
        Self { policy, backoff, recent: VecDeque::new() }
    }

    /// The child ended at `now` after it ran for `ran`; whether that was a `failure` is for its
    /// status to say. `random` is evenly spread from 0 to 1.
    pub fn ended(&mut self, now: Duration, ran: Duration, failure: bool, random: f64) -> Verdict {
        let again = match self.policy {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => failure,
            RestartPolicy::Always => true,
        };
        if !again {
            return Verdict::Leave;
        }
        while self.recent.front().is_some_and(|at| now.saturating_sub(*at) >= PERIOD) {
            self.recent.pop_front();
        }
        if self.recent.len() >= INTENSITY {
            return Verdict::Failed;
        }
        if ran >= WELL_AFTER {
            self.backoff.reset();
        }
        let after = self.backoff.next(random);
        self.recent.push_back(now.saturating_add(after));
        Verdict::Restart { after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn after(verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Restart { after } => after,
            other => panic!("no restart but {other:?}"),
        }
    }

    #[test]
    fn each_policy_asks_for_its_ends() {
        for (policy, after_success, after_failure) in [
            (RestartPolicy::Never, false, false),
            (RestartPolicy::OnFailure, false, true),
            (RestartPolicy::Always, true, true),
        ] {
            for (failure, again) in [(false, after_success), (true, after_failure)] {
                let verdict = Restarts::new(policy).ended(ms(0), ms(1), failure, 0.5);
                assert_eq!(verdict != Verdict::Leave, again, "{policy}, failure: {failure}");
            }
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        assert_eq!("sometimes".parse::<RestartPolicy>(), Err(UnknownRestartPolicy));
    }

    #[test]
    fn the_sixth_restart_within_ten_seconds_is_one_too_many() {
        let mut restarts = Restarts::new(RestartPolicy::Always);
        let mut now = ms(0);
        for wait in [0, 50, 80, 128, 204] {
            let after = after(restarts.ended(now, ms(0), true, 0.5));
            assert_eq!(after.as_millis(), wait);
            now += after;
        }
        assert_eq!(restarts.ended(now, ms(0), true, 0.5), Verdict::Failed);
        assert_eq!(restarts.ended(ms(9_999), ms(0), true, 0.5), Verdict::Failed);
        // The first of them is ten seconds ago.
        assert!(matches!(restarts.ended(ms(10_000), ms(0), true, 0.5), Verdict::Restart { .. }));
    }

    #[test]
    fn one_restart_every_two_seconds_goes_on_for_ever_and_waits_longer() {
        let mut restarts = Restarts::new(RestartPolicy::OnFailure);
        let mut now = ms(0);
        let mut waits = Vec::new();
        for _ in 0..100 {
            let after = after(restarts.ended(now, ms(2_000), true, 0.5));
            waits.push(after);
            now += after + ms(2_000);
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!(waits.last(), Some(&Duration::from_secs(5)));
    }

    #[test]
    fn a_child_that_was_well_comes_back_at_once() {
        let mut restarts = Restarts::new(RestartPolicy::Always);
        let mut now = ms(0);
        for _ in 0..4 {
            now += after(restarts.ended(now, ms(3_000), true, 0.5)) + ms(3_000);
        }
        let soon = after(restarts.ended(now, ms(3_000), true, 0.5));
        assert_eq!(soon.as_millis(), 204);
        now += soon + WELL_AFTER;
        assert_eq!(after(restarts.ended(now, WELL_AFTER, true, 0.5)), Duration::ZERO);
    }
}
