//! Windows named pipes. By default only their owner can connect. There is always an instance that
//! listens.
//!
//! The platform-independent part is here. The implementation is in `windows/pipe`. On other systems,
//! every use is refused with a hint.

#[cfg(not(windows))]
mod elsewhere;

use std::time::Duration;

use tieline_proto::ByteSize;

#[cfg(windows)]
use crate::windows::pipe as system;
#[cfg(not(windows))]
use elsewhere as system;

pub use system::{PipeConnection, PipeListener};

use crate::endpoint::{Address, Endpoint};
use crate::error::{ConfigError, TransportError};
use crate::info::TransportKind;
use crate::options::{Options, validate_timeout};
use crate::profile::PerformanceProfile;
use crate::transport::{Transport, TransportConfig};

/// Named pipes on Windows. On other systems, every use fails with
/// [`UnsupportedPlatform`](crate::ErrorKind::UnsupportedPlatform).
///
/// - A listener creates the first instance of its name, or fails with
///   [`AddressInUse`](crate::ErrorKind::AddressInUse). It refuses other machines, and other users unless
///   [`PipeConfig::security`] admits them. The next instance is created before a connection is returned, so
///   clients can always connect.
/// - A client lets the server identify it, but not impersonate it. The pipe must belong to the client's
///   own user, the system or the administrators.
/// - There is no half-close: shutting down or dropping the write half ends the line in both directions,
///   once all written bytes have been handed to the system, where the other side can still read them.
///   Therefore, receive all responses before closing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pipe;

/// The configuration of [`Pipe`].
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

    fn endpoint(&self) -> Endpoint {
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

impl Transport for Pipe {
    type Config = PipeConfig;
    type Connection = PipeConnection;
    type Listener = PipeListener;

    fn kind(&self) -> TransportKind {
        TransportKind::PIPE
    }

    fn profile(&self) -> PerformanceProfile {
        PROFILE
    }

    #[cfg_attr(not(windows), expect(unused_variables))]
    fn config(&self, endpoint: &Endpoint, options: &Options) -> Result<PipeConfig, TransportError> {
        let Address::Pipe(name) = endpoint.address() else {
            return Err(crate::endpoint::foreign(endpoint));
        };
        #[cfg(not(windows))]
        return Err(elsewhere::unsupported(crate::Operation::Configure).at(endpoint));
        #[cfg(windows)]
        Ok(PipeConfig {
            security: options.pipe_security.clone(),
            connect_timeout: options.connect_timeout,
            ..PipeConfig::new(name)
        })
    }

    async fn connect(&self, config: &PipeConfig) -> Result<PipeConnection, TransportError> {
        let endpoint = config.endpoint();
        config.validate().map_err(|error| TransportError::from(error).at(&endpoint))?;
        system::connect(config, &endpoint).await.map_err(|error| error.at(&endpoint))
    }

    async fn listen(&self, config: &PipeConfig) -> Result<PipeListener, TransportError> {
        let endpoint = config.endpoint();
        config.validate().map_err(|error| TransportError::from(error).at(&endpoint))?;
        system::listen(config, &endpoint).map_err(|error| error.at(&endpoint))
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
