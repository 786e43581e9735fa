//! Medians and quartiles of what the rounds gave.

/// The middle of some values and how far they are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    /// A quarter of the values is below.
    pub(crate) lower: f64,
    /// A quarter of the values is above.
    pub(crate) upper: f64,
}

impl Spread {
    /// Of no values at all it is not a number.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let [lower, median, upper] = quantiles(values, [0.25, 0.5, 0.75]);
        Self { median, lower, upper }
    }

    /// Of the ratio in each round: what disturbed a round disturbed both sides of it.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
    }
}

/// So large a share of the values is below each.
pub(crate) fn quantiles<const N: usize>(
    values: impl IntoIterator<Item = f64>,
    shares: [f64; N],
) -> [f64; N] {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    shares.map(|share| quantile(&sorted, share))
}

/// Between two values, on the straight line from one to the other.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * sorted.len().saturating_sub(1) as f64;
    let value = |index: f64| sorted.get(index as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (value(at.floor()), value(at.ceil()));
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles() {
        for (values, lower, median, upper) in [
            (&[7.0][..], 7.0, 7.0, 7.0),
            (&[4.0, 2.0], 2.5, 3.0, 3.5),
            (&[3.0, 1.0, 2.0], 1.5, 2.0, 2.5),
            (&[5.0, 1.0, 4.0, 2.0, 3.0], 2.0, 3.0, 4.0),
            (&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1000.0], 1.0, 1.0, 1.0),
        ] {
            assert_eq!(Spread::of(values.to_vec()), Spread { median, lower, upper }, "{values:?}");
        }
        assert!(Spread::of([]).median.is_nan());
    }

    #[test]
    fn a_slow_round_that_hits_both_sides_moves_no_ratio() {
        let ratio = Spread::of_ratios(&[2.0, 20.0, 2.0], &[1.0, 10.0, 1.0]);
        assert_eq!(ratio, Spread { median: 2.0, lower: 2.0, upper: 2.0 });
    }
}
