//! Restarting child processes, with a limit on the frequency (the restart intensity of Erlang/OTP
//! supervisors).

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::backoff::{Backoff, BackoffConfig};

/// The policy for restarting a child process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never restart it.
    #[default]
    Never,
    /// Restart it after a failure: an unsuccessful exit status, a signal, or a truncated last message.
    OnFailure,
    /// Restart it after every exit.
    Always,
}

impl RestartPolicy {
    /// All policies, in the order in which they are documented.
    pub const ALL: [Self; 3] = [Self::Never, Self::OnFailure, Self::Always];

    /// Returns the name used in command-line options.
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

/// The error for text that names no [`RestartPolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRestartPolicy;

impl fmt::Display for UnknownRestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such restart policy; the policies are no, on-failure and always")
    }
}

impl std::error::Error for UnknownRestartPolicy {}

/// How many restarts are allowed within [`PERIOD`].
const INTENSITY: usize = 5;
/// The time over which restarts are counted.
const PERIOD: Duration = Duration::from_secs(10);

/// The running time after which a child is considered healthy, so that the backoff starts over.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// The decision about a child that has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Restart it.
    Restart {
        /// How long to wait before the restart.
        after: Duration,
    },
    /// Do not restart it, because the policy does not require this.
    Leave,
    /// Give up, because it was restarted five times within ten seconds.
    Failed,
}

/// The state that decides, each time a child exits, whether to restart it. Times are durations since any
/// fixed moment.
#[derive(Clone, Debug)]
pub struct Restarts {
    policy: RestartPolicy,
    backoff: Backoff,
    /// The times of the restarts within the last period.
    recent: VecDeque<Duration>,
}

impl Restarts {
    /// Creates the state for a child that runs for the first time.
    pub const fn new(policy: RestartPolicy) -> Self {
        let backoff = Backoff::new(BackoffConfig::LOCAL);
        Self { policy, backoff, recent: VecDeque::new() }
    }

    /// Returns the decision after the child exited at `now`, having run for `ran`. The caller determines
    /// whether the exit was a `failure`. `random` is evenly distributed from 0 to 1.
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
            other => panic!("expected a restart, got {other:?}"),
        }
    }

    #[test]
    fn policies_restart_after_the_exits_they_name() {
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
    fn sixth_restart_within_ten_seconds_is_refused() {
        let mut restarts = Restarts::new(RestartPolicy::Always);
        let mut now = ms(0);
        for wait in [0, 50, 80, 128, 204] {
            let after = after(restarts.ended(now, ms(0), true, 0.5));
            assert_eq!(after.as_millis(), wait);
            now += after;
        }
        assert_eq!(restarts.ended(now, ms(0), true, 0.5), Verdict::Failed);
        assert_eq!(restarts.ended(ms(9_999), ms(0), true, 0.5), Verdict::Failed);
        // The first restart was ten seconds ago.
        assert!(matches!(restarts.ended(ms(10_000), ms(0), true, 0.5), Verdict::Restart { .. }));
    }

    #[test]
    fn restarts_every_two_seconds_continue_with_growing_waits() {
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
    fn healthy_child_is_restarted_at_once() {
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
