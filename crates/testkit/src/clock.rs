//! Clocks for tests that measure time on real sockets.
//!
//! Tokio's paused clock jumps to the next timer whenever the runtime is idle. With real sockets, the
//! runtime is idle while the kernel still moves bytes, so a timeout can expire although no time has
//! passed. These clocks do not jump.

use std::sync::mpsc;
use std::time::Duration;

use tokio::task::AbortHandle;

/// The length of one step of a [`FastClock`].
const STEP: Duration = Duration::from_millis(200);
/// The real time before each step, in which the sockets can make progress.
const PAUSE: Duration = Duration::from_millis(10);

/// Keeps the clock of the current runtime stopped, so that only `tokio::time::advance` changes it. After
/// `limit` of real time, the clock jumps to the next timer, so that a test that hangs fails.
pub struct StoppedClock {
    _end: mpsc::Sender<()>,
}

impl StoppedClock {
    /// Stops the clock.
    pub fn new(limit: Duration) -> Self {
        let (end, ended) = mpsc::channel();
        tokio::time::pause();
        // A paused clock does not jump while a blocking task runs.
        tokio::task::spawn_blocking(move || ended.recv_timeout(limit));
        Self { _end: end }
    }
}

impl Drop for StoppedClock {
    fn drop(&mut self) {
        tokio::time::resume();
    }
}

/// Makes the clock of the current runtime run 20 times as fast as real time, in steps. Each step is
/// taken by the runtime, so that the clock also stops while the process gets no processor time.
pub struct FastClock {
    steps: AbortHandle,
    _stopped: StoppedClock,
}

impl FastClock {
    /// Starts the clock.
    pub fn start() -> Self {
        let stopped = StoppedClock::new(Duration::MAX);
        let steps = tokio::spawn(async {
            loop {
                let pause = tokio::task::spawn_blocking(|| std::thread::sleep(PAUSE));
                if pause.await.is_err() {
                    return;
                }
                tokio::time::advance(STEP).await;
            }
        });
        Self { steps: steps.abort_handle(), _stopped: stopped }
    }
}

impl Drop for FastClock {
    fn drop(&mut self) {
        self.steps.abort();
    }
}

/// Asserts that an operation took `expected` on a [`FastClock`], or up to 15 steps longer. Each timer,
/// and each event of a socket that follows it, may be noticed one step late.
#[track_caller]
pub fn assert_took(took: Duration, expected: Duration) {
    let latest = expected + 15 * STEP;
    assert!(took >= expected && took <= latest, "it took {took:?} instead of {expected:?}");
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test]
    async fn fast_clock_reaches_a_timer_in_steps() {
        let _clock = FastClock::start();
        let begun = Instant::now();
        sleep(Duration::from_secs(5)).await;
        assert_took(begun.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn stopped_clock_stands_still_while_the_runtime_is_idle() {
        let clock = StoppedClock::new(Duration::from_secs(60));
        let begun = Instant::now();
        let idle = tokio::task::spawn_blocking(|| std::thread::sleep(PAUSE));
        tokio::select! {
            outcome = idle => outcome.unwrap(),
            () = sleep(Duration::from_secs(5)) => panic!("the clock has jumped"),
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        drop(clock);
    }
}
