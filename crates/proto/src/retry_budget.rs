//! A retry budget (gRPC retry throttling). While most calls succeed, failed calls may be retried; while
//! most calls fail, none may be, so that retries do not make an overload worse.

/// The configuration of a [`RetryBudget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudgetConfig {
    /// The maximum and initial number of tokens; 10 by default. A failure takes one token, and a call may
    /// be retried only while more than half of the tokens are left.
    pub tokens: u16,
    /// How many successes return one token; 10 by default. 0 is treated as 1.
    pub successes_per_token: u16,
}

impl Default for RetryBudgetConfig {
    fn default() -> Self {
        Self { tokens: 10, successes_per_token: 10 }
    }
}

/// A retry budget for the calls to one server.
///
/// Failures are defined as for the [breaker](crate::Breaker). Only idempotent calls may be retried at
/// all.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    config: RetryBudgetConfig,
    /// The tokens, in units of the fraction that a success returns. Whole numbers avoid rounding errors.
    level: u32,
}

impl RetryBudget {
    /// Creates a full budget.
    pub fn new(config: RetryBudgetConfig) -> Self {
        Self { config, level: u32::from(config.tokens) * token(config) }
    }

    /// Records a failed call, and returns whether it may be retried. Call this also after each failed
    /// retry.
    pub fn failed(&mut self) -> bool {
        self.level = self.level.saturating_sub(token(self.config));
        self.may_retry()
    }

    /// Records a successful call.
    pub fn passed(&mut self) {
        self.level = self.level.saturating_add(1).min(self.full());
    }

    /// Returns whether retries are currently allowed.
    pub fn may_retry(&self) -> bool {
        self.level > self.full() / 2
    }

    /// Returns the number of whole tokens left.
    pub fn tokens(&self) -> u16 {
        u16::try_from(self.level / token(self.config)).unwrap_or(u16::MAX)
    }

    fn full(&self) -> u32 {
        u32::from(self.config.tokens) * token(self.config)
    }
}

/// Returns the value of a token, in units of `level`.
fn token(config: RetryBudgetConfig) -> u32 {
    u32::from(config.successes_per_token.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fifth_consecutive_failure_may_not_be_retried() {
        let mut budget = RetryBudget::new(RetryBudgetConfig::default());
        let repeated: Vec<bool> = (0..6).map(|_| budget.failed()).collect();
        assert_eq!(repeated, [true, true, true, true, false, false]);
    }

    #[test]
    fn ten_successes_make_up_for_a_failure() {
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
    fn empty_budget_allows_no_retries() {
        for successes_per_token in [0, 1, u16::MAX] {
            let config = RetryBudgetConfig { tokens: 0, successes_per_token };
            let mut budget = RetryBudget::new(config);
            budget.passed();
            assert!(!budget.may_retry() && !budget.failed());
        }
    }

    /// Computes the level with fractions, starting from the first call.
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
        fn budget_matches_the_level_in_fractions(
            tokens in 1u16..30,
            successes_per_token in 1u16..30,
            calls in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let config = RetryBudgetConfig { tokens, successes_per_token };
            let mut budget = RetryBudget::new(config);
            for end in 1..=calls.len() {
                let passed = calls[end - 1];
                let actual = if passed { budget.passed(); budget.may_retry() } else { budget.failed() };
                let level = level(config, &calls[..end]);
                // Levels differ by at least a thirtieth; the tolerance covers rounding errors.
                prop_assert_eq!(actual, level > f64::from(tokens) / 2.0 + 1e-6);
                prop_assert!(budget.tokens() <= tokens);
            }
        }
    }
}
