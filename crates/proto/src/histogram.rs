//! How long things took: counts in buckets that are fine where values are small and never wider than
//! a thirty-second of the value (a log-linear histogram, as HDR histograms are).

use std::time::Duration;

/// Each doubling of the value has this many buckets, as a power of two.
const BITS: u32 = 5;
const FINE: u64 = 1 << BITS;

/// The largest value that is told apart, about 71 minutes; what took longer counts as this.
const LARGEST: u64 = (1 << 32) - 1;

/// Durations in microseconds, from 1 µs to about 71 minutes, to 3 %. It takes 8 bytes for each bucket
/// up to the largest value that came, and no more than 7 KiB.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: Duration,
    max: Duration,
}

impl Histogram {
    /// An empty one, which takes no memory yet.
    pub const fn new() -> Self {
        Self { buckets: Vec::new(), count: 0, sum: Duration::ZERO, max: Duration::ZERO }
    }

    /// Counts something that took so long. What is below a microsecond counts as 0.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(LARGEST);
        let index = index(micros);
        self.grow(index + 1);
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(took);
        self.max = self.max.max(took);
    }

    /// Adds all that another has counted.
    pub fn add(&mut self, other: &Self) {
        self.grow(other.buckets.len());
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    fn grow(&mut self, buckets: usize) {
        if let Some(more) = buckets.checked_sub(self.buckets.len()) {
            self.buckets.reserve_exact(more);
            self.buckets.resize(buckets, 0);
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// How long one took on average, exactly; zero if there was none.
    pub fn mean(&self) -> Duration {
        let nanos = self.sum.as_nanos().checked_div(u128::from(self.count)).unwrap_or_default();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// What the given share of them (0 to 1; 0.99 for the 99th percentile) took at most, and at the
    /// most a thirty-second more; zero if there was none.
    pub fn quantile(&self, share: f64) -> Duration {
        // Not a number is no share.
        let share = if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) };
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut counted = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            counted += bucket;
            if counted >= wanted {
                return Duration::from_micros(highest(index)).min(self.max);
            }
        }
        self.max
    }
}

/// Below 32 each value has its own; from there on the five bits behind the first one tell.
fn index(micros: u64) -> usize {
    let doublings = (u64::BITS - micros.leading_zeros()).saturating_sub(BITS + 1);
    let fine = micros >> doublings;
    (u64::from(doublings) * FINE + fine) as usize
}

/// The largest value of a bucket.
fn highest(index: usize) -> u64 {
    let index = index as u64;
    let doublings = (index / FINE).saturating_sub(1);
    let fine = index - doublings * FINE;
    ((fine + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut next = 0;
        for bucket in 0..=index(LARGEST) {
            assert_eq!(index(next), bucket, "of {next}");
            assert_eq!(index(highest(bucket)), bucket, "up to {}", highest(bucket));
            next = highest(bucket) + 1;
        }
        assert_eq!(next, LARGEST + 1);
    }

    #[test]
    fn quantiles_of_a_hundred_values() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.quantile(0.5), histogram.mean()), (us(0), us(0)));
        (1..=100).for_each(|value| histogram.record(us(value)));
        let (half, most) = (histogram.quantile(0.5), histogram.quantile(0.99));
        assert!((us(50)..=us(51)).contains(&half), "{half:?}");
        assert!((us(99)..=us(100)).contains(&most), "{most:?}");
        assert_eq!((histogram.max(), histogram.count()), (us(100), 100));
        assert_eq!(histogram.mean(), Duration::from_nanos(50_500));
    }

    #[test]
    fn what_is_out_of_range_is_counted_and_takes_bounded_memory() {
        let mut histogram = Histogram::new();
        histogram.record(Duration::MAX);
        histogram.record(Duration::ZERO);
        assert_eq!((histogram.count(), histogram.max()), (2, Duration::MAX));
        assert_eq!(histogram.quantile(0.5), us(0));
        assert_eq!(histogram.quantile(1.0), us(LARGEST));
        let mut growing = Histogram::new();
        for value in [31, 32, 1000, 1001, u64::from(u32::MAX / 2), u64::MAX] {
            growing.record(us(value));
            assert_eq!(growing.quantile(1.0), us(value.min(LARGEST)), "exactly the longest");
            assert!(growing.buckets.capacity() * 8 <= 7 * 1024, "{}", growing.buckets.capacity());
        }
    }

    proptest! {
        #[test]
        fn as_a_sorted_list_says(
            mut values in prop::collection::vec((0_u32..=u32::MAX, 0_u32..32), 1..100),
            share in 0.0_f64..=1.0,
        ) {
            let mut histogram = Histogram::new();
            let (some, rest) = values.split_at(values.len() / 2);
            let value = |(value, shift): &(u32, u32)| u64::from(value >> shift);
            some.iter().for_each(|it| histogram.record(us(value(it))));
            let mut other = Histogram::new();
            rest.iter().for_each(|it| other.record(us(value(it))));
            histogram.add(&other);
            values.sort_by_key(value);
            let nth = ((values.len() as f64 * share).ceil() as usize).max(1) - 1;
            let exact = value(&values[nth]);
            let told = histogram.quantile(share);
            prop_assert!(us(exact) <= told && told <= us(exact + exact / 32), "{exact} {told:?}");
            prop_assert_eq!(histogram.count(), values.len() as u64);
        }
    }
}
