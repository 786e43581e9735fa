//! Exponential backoff with jitter (the gRPC connection backoff protocol, with other bounds for local
//! endpoints).

use std::time::Duration;

/// The configuration of a [`Backoff`]. The wait before the first attempt after a loss is at most
/// `first`. From the second attempt, the wait before attempt *n* is `min(initial · 1.6^(n−2), max)` ± 20
/// %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// The longest wait before the first attempt. The wait is evenly distributed between zero and this
    /// value, so that ten thousand clients that lost the same server do not reconnect at once.
    pub first: Duration,
    /// The wait before the second attempt.
    pub initial: Duration,
    /// The longest wait, before jitter.
    pub max: Duration,
}

impl BackoffConfig {
    /// The configuration for endpoints on this machine: no wait at first, then from 50 ms up to 5 s.
    pub const LOCAL: Self = Self {
        first: Duration::ZERO,
        initial: Duration::from_millis(50),
        max: Duration::from_secs(5),
    };

    /// The configuration for endpoints on other machines: up to 5 s at first, then from 1 s up to 120 s.
    pub const REMOTE: Self = Self {
        first: Duration::from_secs(5),
        initial: Duration::from_secs(1),
        max: Duration::from_secs(120),
    };
}

const GROWTH: f64 = 1.6;
const SPREAD: f64 = 0.2;

/// The waits between attempts since the last success.
#[derive(Clone, Debug)]
pub struct Backoff {
    config: BackoffConfig,
    attempts: u32,
}

impl Backoff {
    /// Creates a backoff whose next attempt is the first one.
    pub const fn new(config: BackoffConfig) -> Self {
        Self { config, attempts: 0 }
    }

    /// Returns how long to wait before the next attempt. `random` is evenly distributed from 0 to 1.
    pub fn next(&mut self, random: f64) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts == 1 {
            return self.config.first.mul_f64(within_bounds(random));
        }
        grown(self.config.initial, self.config.max, self.attempts - 2, random)
    }

    /// Returns the number of attempts since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Records a success: the next attempt is the first one again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// Returns `min(initial · 1.6^times, max)` ± 20 %.
pub(crate) fn grown(initial: Duration, max: Duration, times: u32, random: f64) -> Duration {
    // Any maximum is exceeded long before the power overflows.
    let growth = GROWTH.powi(i32::try_from(times).unwrap_or(i32::MAX).min(1000));
    let wait = (initial.as_secs_f64() * growth).min(max.as_secs_f64());
    let wait = wait * (1.0 - SPREAD + 2.0 * SPREAD * within_bounds(random));
    Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX)
}

fn within_bounds(random: f64) -> f64 {
    if random.is_nan() { 0.5 } else { random.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waits(config: BackoffConfig, random: f64, attempts: usize) -> Vec<u128> {
        let mut backoff = Backoff::new(config);
        (0..attempts).map(|_| backoff.next(random).as_millis()).collect()
    }

    #[test]
    fn local_attempts_begin_at_once_and_become_rarer() {
        assert_eq!(
            waits(BackoffConfig::LOCAL, 0.5, 13),
            [0, 50, 80, 128, 204, 327, 524, 838, 1342, 2147, 3435, 5000, 5000]
        );
    }

    #[test]
    fn remote_attempts_are_spread_out() {
        assert_eq!(waits(BackoffConfig::REMOTE, 0.0, 3), [0, 800, 1280]);
        assert_eq!(waits(BackoffConfig::REMOTE, 1.0, 3), [5000, 1200, 1920]);
    }

    #[test]
    fn reset_starts_over() {
        let mut backoff = Backoff::new(BackoffConfig::LOCAL);
        for _ in 0..5 {
            backoff.next(0.5);
        }
        assert_eq!(backoff.attempts(), 5);
        backoff.reset();
        assert_eq!((backoff.next(0.5), backoff.attempts()), (Duration::ZERO, 1));
    }

    proptest! {
        #[test]
        fn waits_stay_within_their_bounds(random in any::<f64>(), attempts in 1u32..5000) {
            let mut backoff = Backoff::new(BackoffConfig::REMOTE);
            let mut last = Duration::ZERO;
            for _ in 0..attempts {
                last = backoff.next(random);
                prop_assert!(last <= BackoffConfig::REMOTE.max.mul_f64(1.2));
            }
            if attempts > 20 {
                prop_assert!(last >= BackoffConfig::REMOTE.max.mul_f64(0.8));
            }
        }
    }
}
