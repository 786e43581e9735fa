//! One warning a minute, however often there is something to warn of.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most one warning in this time.
const QUIET: Duration = Duration::from_secs(60);

/// Says whether it is time for a warning: at most one a minute, which tells how many went unreported in
/// between.
#[derive(Debug, Default)]
pub struct Sparing(Mutex<Since>);

#[derive(Debug, Default)]
struct Since {
    warned: Option<Instant>,
    unreported: u64,
}

impl Sparing {
    /// There is something to warn of: how many went unreported since the last warning, if it is time for
    /// another; `None`, and counted, if not.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if since.warned.is_some_and(|warned| now.saturating_duration_since(warned) < QUIET) {
            since.unreported += 1;
            return None;
        }
        since.warned = Some(now);
        Some(std::mem::take(&mut since.unreported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_one_warning_a_minute() {
        let log = Sparing::default();
        let start = Instant::now();
        assert_eq!(log.admit(start), Some(0));
        for second in 0..59 {
            assert_eq!(log.admit(start + Duration::from_secs(second)), None);
        }
        assert_eq!(log.admit(start + QUIET), Some(59));
        assert_eq!(log.admit(start + QUIET * 2), Some(0));
    }
}
