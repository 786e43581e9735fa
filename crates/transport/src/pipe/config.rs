//! The configuration of a named pipe, and its expected performance.

use std::time::Duration;

use tieline_proto::ByteSize;

use crate::endpoint::{Address, Endpoint};
use crate::error::ConfigError;
use crate::options::validate_timeout;
use crate::profile::PerformanceProfile;
use crate::transport::TransportConfig;

/// The configuration of [`Pipe`](super::Pipe).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeConfig {
    /// The pipe's name, without `\\.\pipe\`.
    pub name: String,
    /// A security descriptor in SDDL that determines which users may connect; `None`, the default,
    /// admits only this process's user.
    pub security: Option<String>,
    /// How long connecting may take when every instance is busy; 5 s by default. For the first 200 ms,
    /// connecting to a pipe that does not exist is also retried, because its server may be between two
    /// clients.
    pub connect_timeout: Duration,
    /// How many instances wait for clients; 16 by default. If all of them are in use, a client gets the
    /// error that the pipe is busy.
    pub backlog: u8,
}

impl PipeConfig {
    /// Returns the default configuration for the pipe `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            security: None,
            connect_timeout: Duration::from_secs(5),
            backlog: 16,
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::new(Address::Pipe(self.name.clone()))
    }
}

/// The maximum length of a name: a full path has at most 256 characters, including `\\.\pipe\`.
const LONGEST: usize = 256 - r"\\.\pipe\".len();

impl TransportConfig for PipeConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |must| Err(ConfigError { field: "name", must });
        if self.name.is_empty() {
            return refuse("not be empty");
        }
        if self.name.encode_utf16().count() > LONGEST {
            return refuse("have at most 247 characters");
        }
        // Windows would turn a slash into a backslash and remove a part that is a single dot.
        if self.name.contains(['/', '\0'])
            || self
                .name
                .split('\\')
                .any(|part| part.is_empty() || part.bytes().all(|byte| byte == b'.'))
        {
            return refuse(r"be one or more names separated by \, and contain no /");
        }
        if self.security.as_ref().is_some_and(|text| text.contains('\0')) {
            return Err(ConfigError { field: "security", must: "contain no NUL byte" });
        }
        if self.backlog == 0 {
            return Err(ConfigError { field: "backlog", must: "be at least 1" });
        }
        validate_timeout("connect_timeout", self.connect_timeout)
    }
}

pub(crate) const PROFILE: PerformanceProfile = PerformanceProfile {
    connect: Duration::from_millis(1),
    round_trip: Duration::from_micros(200),
    throughput: ByteSize::new(200_000_000),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_windows_would_change_are_refused() {
        let longest = "x".repeat(LONGEST);
        for name in ["agent", "a b.c", r"ProtectedPrefix\Administrators\a", "a:b?", &longest] {
            assert_eq!(PipeConfig::new(name).validate(), Ok(()), "{name}");
        }
        let too_long = "x".repeat(LONGEST + 1);
        for name in ["", "a/b", r"a\", r"\a", r"a\\b", r"a\..\b", ".", "a\0b", &too_long] {
            assert_eq!(PipeConfig::new(name).validate().unwrap_err().field, "name", "{name}");
        }
        let none = PipeConfig { backlog: 0, ..PipeConfig::new("a") };
        assert_eq!(none.validate().unwrap_err().field, "backlog");
    }
}
