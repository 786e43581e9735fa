//! A rate limit for warnings: one a minute.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// The minimum time between two warnings.
const QUIET: Duration = Duration::from_secs(60);

/// A limit of one warning a minute. Each warning can state how many were suppressed since the last one.
///
/// All suppressed warnings are counted. If no other warning follows, the count is passed to the closure
/// given to [`new`](Self::new): at the end of the minute if there is a runtime, otherwise when the
/// throttle is dropped.
pub struct WarnThrottle(Arc<Shared>);

struct Shared {
    since: Mutex<Since>,
    summarize: Box<dyn Fn(u64) + Send + Sync>,
}

#[derive(Default)]
struct Since {
    warned: Option<Instant>,
    suppressed: u64,
    /// The timer, while the count of suppressed warnings is not zero.
    timer: Option<AbortHandle>,
}

impl WarnThrottle {
    /// Creates a throttle. `summarize` logs how many warnings were suppressed; it is never called with 0.
    pub fn new(summarize: impl Fn(u64) + Send + Sync + 'static) -> Self {
        let summarize = Box::new(summarize);
        Self(Arc::new(Shared { since: Mutex::default(), summarize }))
    }

    /// Decides whether to log a warning now. If so, returns how many were suppressed since the last one.
    /// Otherwise, counts this warning as suppressed and returns `None`.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        self.admit_many(1, now)
    }

    /// Works like [`admit`](Self::admit), for a warning that stands for `count` events.
    pub fn admit_many(&self, count: u64, now: Instant) -> Option<u64> {
        let mut since = self.0.lock();
        let quiet = since.warned.map_or(Duration::ZERO, |warned| {
            QUIET.saturating_sub(now.saturating_duration_since(warned))
        });
        if !quiet.is_zero() {
            since.suppressed += count;
            if since.timer.is_none() {
                since.timer = self.0.announce_after(quiet);
            }
            return None;
        }
        since.warned = Some(now);
        Some(since.take())
    }
}

impl Drop for WarnThrottle {
    fn drop(&mut self) {
        self.0.announce();
    }
}

impl fmt::Debug for WarnThrottle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WarnThrottle").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Since> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce_after(self: &Arc<Self>, quiet: Duration) -> Option<AbortHandle> {
        let runtime = Handle::try_current().ok()?;
        let shared = Arc::downgrade(self);
        let timer = runtime.spawn(async move {
            tokio::time::sleep(quiet).await;
            if let Some(shared) = shared.upgrade() {
                shared.announce();
            }
        });
        Some(timer.abort_handle())
    }

    fn announce(&self) {
        let mut since = self.lock();
        let suppressed = since.take();
        if suppressed > 0 {
            since.warned = Some(Instant::now());
            drop(since);
            (self.summarize)(suppressed);
        }
    }
}

impl Since {
    /// Takes the count of suppressed warnings and stops the timer.
    fn take(&mut self) -> u64 {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        std::mem::take(&mut self.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Announced = Arc<Mutex<Vec<u64>>>;

    fn sparing() -> (WarnThrottle, Announced) {
        let announced = Announced::default();
        let noted = announced.clone();
        (WarnThrottle::new(move |count| noted.lock().unwrap().push(count)), announced)
    }

    #[test]
    fn warns_once_a_minute() {
        let (log, announced) = sparing();
        let start = Instant::now();
        assert_eq!(log.admit(start), Some(0));
        for second in 0..59 {
            assert_eq!(log.admit(start + Duration::from_secs(second)), None);
        }
        assert_eq!(log.admit(start + QUIET), Some(59));
        assert_eq!(log.admit(start + QUIET * 2), Some(0));
        drop(log);
        assert_eq!(*announced.lock().unwrap(), [0; 0], "all were reported with a warning");
    }

    #[test]
    fn drop_announces_suppressed_warnings() {
        let (log, announced) = sparing();
        let now = Instant::now();
        assert_eq!(log.admit(now), Some(0));
        assert_eq!(log.admit(now), None);
        assert_eq!(log.admit_many(3, now), None);
        drop(log);
        assert_eq!(*announced.lock().unwrap(), [4]);
    }

    #[tokio::test(start_paused = true)]
    async fn timer_announces_suppressed_warnings_after_a_minute() {
        let (log, announced) = sparing();
        let now = Instant::now();
        assert_eq!(log.admit(now), Some(0));
        assert_eq!(log.admit(now), None);
        assert_eq!(log.admit(now), None);
        assert_eq!(*announced.lock().unwrap(), [0; 0]);
        // The clock is paused and advances when all tasks are idle.
        tokio::time::sleep(QUIET * 2).await;
        assert_eq!(*announced.lock().unwrap(), [2]);
        drop(log);
        assert_eq!(*announced.lock().unwrap(), [2]);
    }
}
