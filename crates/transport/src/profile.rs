//! The expected performance of a transport, and warnings about operations that are far slower.

use std::time::{Duration, Instant};

use tieline_proto::ByteSize;

use crate::endpoint::Endpoint;
use crate::throttle::WarnThrottle;

/// The expected performance of a transport on ordinary hardware. Operations that take far longer are
/// logged as slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerformanceProfile {
    /// The time to connect.
    pub connect: Duration,
    /// The time for a small message and its response.
    pub round_trip: Duration,
    /// The throughput of large messages, in bytes per second.
    pub throughput: ByteSize,
}

/// How many times longer than expected an operation may take before it is logged. The factor is large
/// because shared machines are often slow for a moment.
const PATIENCE: u32 = 1000;

impl PerformanceProfile {
    /// Returns how long connecting may take without a warning.
    pub fn slow_connect(&self) -> Duration {
        self.connect.saturating_mul(PATIENCE)
    }

    /// Returns how long handing `bytes` to the operating system may take without a warning, measured
    /// from the first attempt.
    pub fn slow_write(&self, bytes: usize) -> Duration {
        let seconds = bytes as f64 / self.throughput.bytes().max(1) as f64;
        let transfer = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.round_trip.saturating_add(transfer).saturating_mul(PATIENCE)
    }
}

/// A log of slow operations on an endpoint, with at most one line a minute.
#[derive(Debug)]
pub(crate) struct SlowLog(WarnThrottle);

impl SlowLog {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let endpoint = endpoint.clone();
        Self(WarnThrottle::new(move |count| {
            tracing::warn!(%endpoint, count, "more slow operations occurred");
        }))
    }

    /// Logs an operation that took `elapsed`, if that is more than `allowed`.
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
    fn allowed_time_grows_with_the_bytes() {
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
