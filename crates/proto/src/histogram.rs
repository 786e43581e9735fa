//! A log-linear histogram of durations, similar to an HDR histogram. The width of a bucket is at most
//! 1/32 of the values in it.

use std::time::Duration;

/// The number of buckets for each doubling of the value, as a power of two.
const BITS: u32 = 5;
const FINE: u64 = 1 << BITS;

/// The largest value that is recorded, about 71 minutes. Longer durations are recorded with this value.
const LARGEST: u64 = (1 << 32) - 1;

/// A histogram of durations from 1 µs to about 71 minutes, with an error of at most 3 %.
///
/// It uses 8 bytes for each bucket up to that of the largest recorded value, at most 7 KiB.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: Duration,
    max: Duration,
}

impl Histogram {
    /// Creates an empty histogram, without allocating.
    pub const fn new() -> Self {
        Self { buckets: Vec::new(), count: 0, sum: Duration::ZERO, max: Duration::ZERO }
    }

    /// Records a duration. A duration below one microsecond is recorded as 0.
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

    /// Adds the durations recorded by another histogram.
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

    /// Returns the number of recorded durations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the exact maximum.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// Returns the exact mean, or zero if nothing was recorded.
    pub fn mean(&self) -> Duration {
        let nanos = self.sum.as_nanos().checked_div(u128::from(self.count)).unwrap_or_default();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Returns the quantile for `share` (0 to 1; 0.99 is the 99th percentile), which is at most 1/32 too
    /// high. Returns zero if nothing was recorded.
    pub fn quantile(&self, share: f64) -> Duration {
        // NaN is treated as 1.
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

/// Returns the bucket of a value. Each value below 32 has its own bucket; above that, the five bits after the
/// highest one select the bucket.
fn index(micros: u64) -> usize {
    let doublings = (u64::BITS - micros.leading_zeros()).saturating_sub(BITS + 1);
    let fine = micros >> doublings;
    (u64::from(doublings) * FINE + fine) as usize
}

/// Returns the largest value of a bucket.
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
    fn buckets_are_contiguous() {
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
    fn out_of_range_values_are_counted_in_bounded_memory() {
        let mut histogram = Histogram::new();
        histogram.record(Duration::MAX);
        histogram.record(Duration::ZERO);
        assert_eq!((histogram.count(), histogram.max()), (2, Duration::MAX));
        assert_eq!(histogram.quantile(0.5), us(0));
        assert_eq!(histogram.quantile(1.0), us(LARGEST));
        let mut growing = Histogram::new();
        for value in [31, 32, 1000, 1001, u64::from(u32::MAX / 2), u64::MAX] {
            growing.record(us(value));
            assert_eq!(growing.quantile(1.0), us(value.min(LARGEST)), "the maximum is exact");
            assert!(growing.buckets.capacity() * 8 <= 7 * 1024, "{}", growing.buckets.capacity());
        }
    }

    proptest! {
        #[test]
        fn quantiles_match_a_sorted_list(
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
            let quantile = histogram.quantile(share);
            prop_assert!(us(exact) <= quantile && quantile <= us(exact + exact / 32), "{exact} {quantile:?}");
            prop_assert_eq!(histogram.count(), values.len() as u64);
        }
    }
}
