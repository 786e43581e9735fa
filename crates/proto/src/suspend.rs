//! Whether the machine has slept: then the wall clock has gone further than the monotonic one, and
//! whoever was on the other side may have given up long ago.

use std::time::Duration;

/// By so much the wall clock may be set forward, or be adjusted between two looks, and it is no sleep.
const TOLERANCE: Duration = Duration::from_secs(5);

/// Compares the two clocks from one look to the next.
///
/// Where the monotonic clock goes on in sleep (Windows) it has nothing to notice, and nothing is lost by
/// it: there timers are due as soon as the machine is awake. Of a wall clock that somebody sets forward it
/// says the same as of a sleep.
///
/// ```
/// use std::time::Duration;
/// use tieline_proto::Slept;
///
/// let s = Duration::from_secs;
/// let mut slept = Slept::default();
/// assert!(!slept.look(s(1), s(1_000)));
/// assert!(!slept.look(s(11), s(1_010)));
/// // Ten seconds later by one clock, an hour by the other.
/// assert!(slept.look(s(21), s(4_610)));
/// assert!(!slept.look(s(31), s(4_620)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct SuspendDetector {
    /// Both clocks at the last look.
    last: Option<(Duration, Duration)>,
}

impl SuspendDetector {
    /// Whether the machine has slept for more than five seconds since the last look. `now` is monotonic,
    /// since any fixed moment; `wall` is that of the clock on the wall, and may go back.
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
        /// Each step: awake for so long, and the wall clock gone further by so much, or back.
        #[test]
        fn it_is_said_once_for_each_sleep_and_for_nothing_else(
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
    fn no_clock_makes_it_panic() {
        for (now, wall) in [(Duration::MAX, Duration::ZERO), (Duration::ZERO, Duration::MAX)] {
            let mut slept = SuspendDetector::default();
            for (now, wall) in [(now, wall), (wall, now), (wall, wall), (now, now)] {
                slept.look(now, wall);
            }
        }
    }
}
