//! What a transport is expected to do, and the warning when it does not.

use std::time::{Duration, Instant};

use tieline_proto::ByteSize;

use crate::Endpoint;
use crate::throttle::WarnThrottle;

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

/// Warns of slow operations on an endpoint, with the count of those in between.
#[derive(Debug)]
pub(crate) struct SlowLog(WarnThrottle);

impl SlowLog {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let endpoint = endpoint.clone();
        Self(WarnThrottle::new(move |count| {
            tracing::warn!(%endpoint, count, "there were more slow operations");
        }))
    }

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
        if let Some(unreported) = self.0.admit(Instant::now()) {
            tracing::warn!(%endpoint, ?elapsed, ?allowed, unreported, "slow {what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
