//! Moments to come.

use std::time::Duration;

use tokio::time::Instant;

/// Longer than anything runs.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The moment that is so far from now. A time that no clock can hold counts as thirty years, as it does for
/// tokio's timers.
pub fn from_now(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or_else(|| now + FOR_EVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_ever_is_a_moment_too() {
        let now = Instant::now();
        assert!(from_now(Duration::MAX) >= now + FOR_EVER);
        assert!(from_now(Duration::ZERO) < now + FOR_EVER);
    }
}
