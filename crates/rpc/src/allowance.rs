//! The rate limit for errors that do not name a request.

use std::time::Duration;

use tokio::time::Instant;

/// How many errors may be sent in a burst.
pub(crate) const AT_ONCE: u32 = 256;
/// How long it takes until one more error may be sent; 16 per second.
const EACH: Duration = Duration::from_micros(62_500);

/// A token bucket. Without it, a program that prints a line of text for each error it receives would be
/// answered forever.
pub(crate) struct Allowance {
    left: u32,
    /// When tokens were last added.
    since: Option<Instant>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: AT_ONCE, since: None }
    }
}

impl Allowance {
    /// Takes one token. Returns false if none is left.
    pub(crate) fn take(&mut self) -> bool {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let earned = now.saturating_duration_since(since).as_micros() / EACH.as_micros();
        let earned = u32::try_from(earned).unwrap_or(AT_ONCE).min(AT_ONCE);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(AT_ONCE);
            self.since = Some(now);
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back_over_time_up_to_the_burst_size() {
        let mut allowance = Allowance::default();
        let mut taken = || (0..10 * AT_ONCE).take_while(|_| allowance.take()).count();
        assert_eq!(taken(), 256);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(), 16);
        tokio::time::advance(Duration::from_secs(10_000)).await;
        assert_eq!(taken(), 256);
    }
}
