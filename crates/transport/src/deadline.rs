//! Deadlines.

use std::time::Duration;

use tokio::time::Instant;

/// Thirty years, which is longer than any process runs.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Returns the instant `wait` from now. If the clock cannot represent it, returns thirty years from now,
/// as tokio's timers do.
pub fn from_now(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or_else(|| now + FOR_EVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maximum_wait_is_a_valid_instant() {
        let now = Instant::now();
        assert!(from_now(Duration::MAX) >= now + FOR_EVER);
        assert!(from_now(Duration::ZERO) < now + FOR_EVER);
    }
}
