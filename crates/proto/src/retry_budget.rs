//! How many calls may be repeated: while most succeed nearly all, while most fail none, so that
//! repeating never makes an overload worse (gRPC's retry throttling, A6).

/// How large a budget is and how it grows back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudgetConfig {
    /// The most tokens there are, and what there is at first; 10 by default. A failure takes one, and
    /// a call is repeated only while there are more than half of them.
    pub tokens: u16,
    /// So many successes give one token back; 10 by default. 0 counts as 1.
    pub successes_per_token: u16,
}

impl Default for RetryBudgetConfig {
    fn default() -> Self {
        Self { tokens: 10, successes_per_token: 10 }
    }
}

/// Counts the calls to one server. Only what [the breaker](crate::Breaker) would call a failure is one
/// here, too, and only calls that do no harm if they are carried out twice are repeated at all.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    config: RetryBudgetConfig,
    /// In the share of a token that a success gives: whole numbers, so that nothing drifts.
    level: u32,
}

impl RetryBudget {
    /// A full one.
    pub fn new(config: RetryBudgetConfig) -> Self {
        Self { config, level: u32::from(config.tokens) * token(config) }
    }

    /// A call has failed. Whether it may be repeated; each failed repetition asks anew.
    pub fn failed(&mut self) -> bool {
        self.level = self.level.saturating_sub(token(self.config));
        self.may_retry()
    }

    /// A call has succeeded.
    pub fn passed(&mut self) {
        self.level = self.level.saturating_add(1).min(self.full());
    }

    /// Whether a call that failed now could be repeated, its own failure not counted.
    pub fn may_retry(&self) -> bool {
        self.level > self.full() / 2
    }

    /// How many whole tokens are left.
    pub fn tokens(&self) -> u16 {
        u16::try_from(self.level / token(self.config)).unwrap_or(u16::MAX)
    }

    fn full(&self) -> u32 {
        u32::from(self.config.tokens) * token(self.config)
    }
}

/// What a token counts for.
fn token(config: RetryBudgetConfig) -> u32 {
    u32::from(config.successes_per_token.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_fifth_failure_in_a_row_is_not_repeated() {
        let mut budget = RetryBudget::new(RetryBudgetConfig::default());
        let repeated: Vec<bool> = (0..6).map(|_| budget.failed()).collect();
        assert_eq!(repeated, [true, true, true, true, false, false]);
    }

    #[test]
    fn ten_successes_pay_for_a_failure() {
        let mut budget = RetryBudget::new(RetryBudgetConfig::default());
        for _ in 0..5 {
            budget.failed();
        }
        assert_eq!((budget.tokens(), budget.may_retry()), (5, false));
        budget.passed();
        assert!(budget.may_retry(), "more than five are left");
        assert!(!budget.failed());
        for _ in 0..10 {
            assert!(!budget.may_retry());
            budget.passed();
        }
        assert!(budget.may_retry());
    }

    #[test]
    fn a_budget_of_nothing_repeats_nothing() {
        for successes_per_token in [0, 1, u16::MAX] {
            let config = RetryBudgetConfig { tokens: 0, successes_per_token };
            let mut budget = RetryBudget::new(config);
            budget.passed();
            assert!(!budget.may_retry() && !budget.failed());
        }
    }

    /// The rule in fractions, from the first call on each time.
    fn level(config: RetryBudgetConfig, calls: &[bool]) -> f64 {
        let most = f64::from(config.tokens);
        let share = 1.0 / f64::from(config.successes_per_token);
        calls.iter().fold(most, |level, passed| match passed {
            true => (level + share).min(most),
            false => (level - 1.0).max(0.0),
        })
    }

    proptest! {
        #[test]
        fn as_the_rule_says(
            tokens in 1u16..30,
            successes_per_token in 1u16..30,
            calls in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let config = RetryBudgetConfig { tokens, successes_per_token };
            let mut budget = RetryBudget::new(config);
            for end in 1..=calls.len() {
                let passed = calls[end - 1];
                let told = if passed { budget.passed(); budget.may_retry() } else { budget.failed() };
                let level = level(config, &calls[..end]);
                // Levels lie a thirtieth apart at least, and fractions are not exact to a hair.
                prop_assert_eq!(told, level > f64::from(tokens) / 2.0 + 1e-6);
                prop_assert!(budget.tokens() <= tokens);
            }
        }
    }
}
