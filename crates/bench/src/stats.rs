//! Medians and quartiles of the rounds.

/// The median of some values, and their spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    /// The lower quartile.
    pub(crate) lower: f64,
    /// The upper quartile.
    pub(crate) upper: f64,
}

impl Spread {
    /// Computes the spread. It is NaN if there are no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let [lower, median, upper] = quantiles(values, [0.25, 0.5, 0.75]);
        Self { median, lower, upper }
    }

    /// Computes the spread of the ratios of the rounds. A disturbance of a round affects both sides.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
    }
}

/// Returns, for each share, the value below which that share of the values lies.
pub(crate) fn quantiles<const N: usize>(
    values: impl IntoIterator<Item = f64>,
    shares: [f64; N],
) -> [f64; N] {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    shares.map(|share| quantile(&sorted, share))
}

/// Interpolates linearly between two values.
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
    fn medians_and_quartiles_are_computed() {
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
    fn slow_round_that_affects_both_sides_changes_no_ratio() {
        let ratio = Spread::of_ratios(&[2.0, 20.0, 2.0], &[1.0, 10.0, 1.0]);
        assert_eq!(ratio, Spread { median: 2.0, lower: 2.0, upper: 2.0 });
    }
}
