//! Detection of system suspends. During a suspend, the wall clock advances further than the monotonic
//! clock, and peers may close the connection.

use std::time::Duration;

/// How much further the wall clock may advance than the monotonic clock, because of clock adjustments,
/// without a suspend being reported.
const TOLERANCE: Duration = Duration::from_secs(5);

/// A detector of system suspends, which compares the advance of the wall clock and of the monotonic clock.
///
/// On systems whose monotonic clock advances during a suspend (Windows), it detects nothing. This does
/// no harm, because timers are due there as soon as the machine resumes. Setting the wall clock forward
/// is reported as a suspend.
///
/// ```
/// use std::time::Duration;
/// use tieline_proto::SuspendDetector;
///
/// let s = Duration::from_secs;
/// let mut detector = SuspendDetector::default();
/// assert!(!detector.look(s(1), s(1_000)));
/// assert!(!detector.look(s(11), s(1_010)));
/// // The monotonic clock advances by ten seconds, the wall clock by an hour.
/// assert!(detector.look(s(21), s(4_610)));
/// assert!(!detector.look(s(31), s(4_620)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct SuspendDetector {
    /// Both clocks at the last call.
    last: Option<(Duration, Duration)>,
}

impl SuspendDetector {
    /// Returns whether the machine was suspended for more than five seconds since the last call. `now`
    /// is the monotonic time since any fixed moment, and `wall` is the time of the wall clock, which may
    /// go back.
    pub fn look(&mut self, now: Duration, wall: Duration) -> bool {
        let Some((then, wall_then)) = self.last.replace((now, wall)) else { return false };
        let awake = now.saturating_sub(then);
        wall.saturating_sub(wall_then) > awake.saturating_add(TOLERANCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A step consists of the time for which the machine was awake, and the time by which the wall
        /// clock advanced further.
        #[test]
        fn each_suspend_is_reported_exactly_once(
            steps in proptest::collection::vec((0..100_000_u64, -20_000..20_000_i64), 1..50),
        ) {
            let (mut slept, mut now, mut wall) = (SuspendDetector::default(), 7_u64, 1_000_000_000_u64);
            let mut look = |now, wall| slept.look(Duration::from_millis(now), Duration::from_millis(wall));
            prop_assert!(!look(now, wall));
            for (awake, asleep) in steps {
                now += awake;
                wall = wall.saturating_add(awake).saturating_add_signed(asleep);
                prop_assert_eq!(look(now, wall), asleep > 5_000);
                prop_assert!(!look(now, wall));
            }
        }
    }

    #[test]
    fn extreme_clock_values_do_not_panic() {
        for (now, wall) in [(Duration::MAX, Duration::ZERO), (Duration::ZERO, Duration::MAX)] {
            let mut slept = SuspendDetector::default();
            for (now, wall) in [(now, wall), (wall, now), (wall, wall), (now, now)] {
                slept.look(now, wall);
            }
        }
    }
}
