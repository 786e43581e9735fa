//! Selects the bits to flip. The choice depends only on the seed and the position in the stream.

/// Selects the bits to flip in one direction of one connection.
pub(super) struct Noise {
    state: u64,
    /// A byte is corrupted if a draw of 53 bits is below this.
    threshold: u64,
}

/// The number of possible draws: the precision of an `f64` between 0 and 1.
const DRAWS: f64 = (1_u64 << 53) as f64;

impl Noise {
    /// Creates a selector that corrupts each byte with probability `rate`, or returns `None` if it never
    /// would. Each `stream` of a seed has its own sequence of numbers.
    pub(super) fn new(rate: f64, seed: u64, stream: u64) -> Option<Self> {
        // The smallest rate above zero must not be rounded down to zero.
        let threshold = (rate.clamp(0.0, 1.0) * DRAWS).ceil() as u64;
        let state = mix(seed ^ mix(stream.wrapping_add(1)));
        (threshold > 0).then_some(Self { state, threshold })
    }

    /// Flips one bit in some of the next bytes of the stream. Returns the number of changed bytes.
    pub(super) fn corrupt(&mut self, bytes: &mut [u8]) -> u64 {
        let mut corrupted = 0;
        for byte in bytes {
            let draw = self.draw();
            if draw >> 11 < self.threshold {
                *byte ^= 1 << (draw & 7);
                corrupted += 1;
            }
        }
        corrupted
    }

    /// Returns the next number of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom
    /// Number Generators", 2014).
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_match_the_reference_implementation() {
        // The first numbers of the authors' implementation for the state 0.
        let mut noise = Noise { state: 0, threshold: 0 };
        let first = [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f];
        assert_eq!([noise.draw(), noise.draw(), noise.draw()], first);
    }

    #[test]
    fn corrupted_share_matches_the_rate() {
        assert!(Noise::new(0.0, 1, 1).is_none());
        let corrupted = |rate| Noise::new(rate, 1, 1).unwrap().corrupt(&mut [0; 10_000]);
        assert_eq!(corrupted(1.0), 10_000);
        assert_eq!(corrupted(f64::MIN_POSITIVE), 0);
        // The seed is fixed, so the number is always the same. The range is four standard deviations.
        assert!((880..1120).contains(&corrupted(0.1)), "{}", corrupted(0.1));
    }

    proptest! {
        #[test]
        fn flipped_bits_do_not_depend_on_read_sizes(
            bytes: Vec<u8>, seed: u64, stream: u64, rate in 0.0..=1.0, cut: prop::sample::Index
        ) {
            let noise = || Noise::new(rate, seed, stream);
            let (mut whole, mut parts) = (bytes.clone(), bytes.clone());
            let corrupted = noise().map_or(0, |mut noise| noise.corrupt(&mut whole));
            let (left, right) = parts.split_at_mut(cut.index(bytes.len() + 1));
            if let Some(mut noise) = noise() {
                noise.corrupt(left);
                noise.corrupt(right);
            }
            prop_assert_eq!(&whole, &parts);
            let flipped: Vec<u32> =
                whole.iter().zip(&bytes).map(|(a, b)| (a ^ b).count_ones()).collect();
            prop_assert!(flipped.iter().all(|bits| *bits <= 1));
            prop_assert_eq!(flipped.iter().map(|bits| u64::from(*bits)).sum::<u64>(), corrupted);
        }
    }
}
