//! How a pool behaves.

use std::time::Duration;

use tieline_transport::ConfigError;

use super::core::Limits;

/// How a [`Pool`](super::Pool) behaves. The defaults are safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The most lines there are at once: idle, in use and being connected; 10 by default.
    pub max: usize,
    /// So many idle ones are kept however long nobody needs them, and
    /// [`maintain`](super::Pool::maintain) connects them ahead; 0 by default.
    pub min_idle: usize,
    /// The most that wait for a line at once, beyond which one is refused at once; 1,024 by default.
    pub max_waiting: usize,
    /// How long getting a line may take: the wait, the check and connecting; 30 s by default.
    pub acquire_timeout: Duration,
    /// A line that was not used for so long is closed; 10 min by default.
    pub idle_timeout: Duration,
    /// A line that has lived for so long, a tenth more or less, is closed when it is not in use; 30 min
    /// by default.
    pub lifetime: Duration,
    /// A line that was idle for longer is checked before it is given out; 500 ms by default.
    pub check_after: Duration,
    /// A line that is held for longer is warned of, once, with where it was taken; 60 s by default.
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

/// What a pool remembers of each line is allocated at once.
const MAX_LINES: usize = 65_536;

impl PoolConfig {
    /// Refuses values that are out of bounds.
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
    fn values_out_of_bounds_are_refused_by_name() {
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
