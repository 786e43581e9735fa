//! The configuration of a pool.

use std::time::Duration;

use tieline_transport::ConfigError;

use super::slots::Limits;

/// The configuration of a [`Pool`](super::Pool).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The maximum number of lines: idle, in use, and being connected; 10 by default.
    pub max: usize,
    /// The number of idle lines that are kept regardless of `idle_timeout`, and that
    /// [`maintain`](super::Pool::maintain) connects in advance; 0 by default.
    pub min_idle: usize,
    /// The maximum number of callers waiting for a line; further callers are refused at once; 1,024 by
    /// default.
    pub max_waiting: usize,
    /// How long getting a line may take, including the wait, the check and connecting; 30 s by default.
    pub acquire_timeout: Duration,
    /// How long a line may be idle before it is closed; 10 min by default.
    pub idle_timeout: Duration,
    /// The age at which a line is closed when it is not in use, ± 10 %; 30 min by default.
    pub lifetime: Duration,
    /// A line that was idle for longer than this is checked before it is lent; 500 ms by default.
    pub check_after: Duration,
    /// How long a line may be held before a warning is logged, once per loan, with the place in the code
    /// that took it; 60 s by default.
    pub held_warning: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max: 10,
            min_idle: 0,
            max_waiting: 1024,
            acquire_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(10 * 60),
            lifetime: Duration::from_secs(30 * 60),
            check_after: Duration::from_millis(500),
            held_warning: Duration::from_secs(60),
        }
    }
}

/// The upper bound of `max`, because the records of all lines are allocated in advance.
const MAX_LINES: usize = 65_536;

impl PoolConfig {
    /// Checks that all values are within their bounds.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_LINES).contains(&self.max) {
            return Err(ConfigError { field: "max", must: "be between 1 and 65,536" });
        }
        if self.min_idle > self.max {
            return Err(ConfigError { field: "min_idle", must: "be at most max" });
        }
        for (field, time) in [
            ("acquire_timeout", self.acquire_timeout),
            ("idle_timeout", self.idle_timeout),
            ("lifetime", self.lifetime),
            ("held_warning", self.held_warning),
        ] {
            if time.is_zero() {
                return Err(ConfigError { field, must: "be longer than zero" });
            }
        }
        Ok(())
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            max: self.max,
            max_waiting: self.max_waiting,
            min_idle: self.min_idle,
            idle_timeout: self.idle_timeout,
            held_warning: self.held_warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_bounds_are_refused_with_the_name_of_the_field() {
        let (good, zero) = (PoolConfig::default(), Duration::ZERO);
        assert_eq!(good.validate(), Ok(()));
        assert_eq!(PoolConfig { max: MAX_LINES, max_waiting: 0, ..good }.validate(), Ok(()));
        for (config, field) in [
            (PoolConfig { max: 0, ..good }, "max"),
            (PoolConfig { max: MAX_LINES + 1, ..good }, "max"),
            (PoolConfig { max: 1, min_idle: 2, ..good }, "min_idle"),
            (PoolConfig { acquire_timeout: zero, ..good }, "acquire_timeout"),
            (PoolConfig { idle_timeout: zero, ..good }, "idle_timeout"),
            (PoolConfig { lifetime: zero, ..good }, "lifetime"),
            (PoolConfig { held_warning: zero, ..good }, "held_warning"),
        ] {
            assert_eq!(config.validate().unwrap_err().field, field);
        }
    }
}
