//! What a transport is expected to do, and the one warning a minute when it does not.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tieline_proto::ByteSize;

use crate::Endpoint;

/// What a transport costs on ordinary hardware; the budgets that slow operations are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerformanceProfile {
    /// To connect.
    pub connect: Duration,
    /// A small message there and back.
    pub round_trip: Duration,
    /// Bulk, in bytes a second.
    pub throughput: ByteSize,
}

/// Machines are shared and schedulers late: only what misses its budget this many times is worth a
/// person's attention.
const PATIENCE: u32 = 1000;

impl PerformanceProfile {
    /// The longest that connecting may take without a warning.
    pub fn slow_connect(&self) -> Duration {
        self.connect.saturating_mul(PATIENCE)
    }

    /// The longest that handing `bytes` to the operating system may take without a warning, from
    /// the first attempt on.
    pub fn slow_write(&self, bytes: usize) -> Duration {
        let seconds = bytes as f64 / self.throughput.bytes().max(1) as f64;
        let transfer = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.round_trip.saturating_add(transfer).saturating_mul(PATIENCE)
    }
}

/// At most one warning in this time on each line.
const QUIET: Duration = Duration::from_secs(60);

/// Warns of slow operations, with the count of those in between.
#[derive(Debug, Default)]
pub(crate) struct SlowLog(Mutex<Slow>);

#[derive(Debug, Default)]
struct Slow {
    warned: Option<Instant>,
    since_then: u64,
}

impl SlowLog {
    /// Notes an operation that took `elapsed`; `allowed` is the budget.
    pub(crate) fn note(
        &self,
        endpoint: &Endpoint,
        what: &str,
        elapsed: Duration,
        allowed: Duration,
    ) {
        if elapsed <= allowed {
            return;
        }
        if let Some(unreported) = self.admit(Instant::now()) {
            tracing::warn!(%endpoint, ?elapsed, ?allowed, unreported, "slow {what}");
        }
    }

    /// How many slow operations went unreported since the last warning, if it is time for another.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut slow = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if slow.warned.is_some_and(|warned| now.saturating_duration_since(warned) < QUIET) {
            slow.since_then += 1;
            return None;
        }
        slow.warned = Some(now);
        Some(std::mem::take(&mut slow.since_then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_slow_operations_is_one_warning_a_minute() {
        let log = SlowLog::default();
        let start = Instant::now();
        assert_eq!(log.admit(start), Some(0));
        for second in 0..59 {
            assert_eq!(log.admit(start + Duration::from_secs(second)), None);
        }
        assert_eq!(log.admit(start + QUIET), Some(59));
        assert_eq!(log.admit(start + QUIET * 2), Some(0));
    }

    #[test]
    fn the_budget_grows_with_what_is_written() {
        let profile = PerformanceProfile {
            connect: Duration::from_micros(100),
            round_trip: Duration::from_micros(100),
            throughput: ByteSize::new(1_000_000_000),
        };
        assert_eq!(profile.slow_connect(), Duration::from_millis(100));
        assert_eq!(profile.slow_write(0), Duration::from_millis(100));
        assert_eq!(profile.slow_write(1_000_000), Duration::from_millis(1100));
    }
}
