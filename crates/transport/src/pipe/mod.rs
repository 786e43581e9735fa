//! Windows named pipes: for their owner alone, and without a moment in which nobody listens.
//!
//! What can be said of them on every system is here. On Windows the rest is in `windows/pipe`;
//! elsewhere each use is refused, with what to use instead.

#[cfg(not(windows))]
mod elsewhere;

use std::time::Duration;

use tieline_proto::ByteSize;

#[cfg(windows)]
use crate::windows::pipe as system;
#[cfg(not(windows))]
use elsewhere as system;

pub use system::{PipeConnection, PipeListener};

use crate::options::validate_timeout;
use crate::{
    Address, ConfigError, Endpoint, Options, PerformanceProfile, Transport, TransportConfig,
    TransportError, TransportKind,
};

/// Named pipes, on Windows; elsewhere every use is an
/// [`UnsupportedPlatform`](crate::ErrorKind::UnsupportedPlatform).
///
/// - A listener is the first of its name, or fails with
///   [`AddressInUse`](crate::ErrorKind::AddressInUse); it refuses other machines, and lets nobody in
///   but its own user, unless [`PipeConfig::security`] says otherwise. The next instance of the pipe is
///   made before a connection is handed out, so there is always one to connect to.
/// - A client tells the server who it is and no more: the server cannot act in its name. The pipe must
///   belong to the client's own user, to the system or to the administrators.
/// - There is no half-close: shutting down the writing half, or dropping it, ends the line both ways,
///   once all that was written was handed to the system. What the other side has not read by then, it
///   still can. So whoever waits for answers waits before closing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pipe;

/// What [`Pipe`] needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeConfig {
    /// The pipe's name, without `\\.\pipe\`.
    pub name: String,
    /// Who may connect, as a security descriptor in SDDL; `None`, the default: our own user alone.
    pub security: Option<String>,
    /// How long connecting may take when every instance is busy; 5 s by default. A pipe that is not
    /// there is asked for again for 200 ms of it: it may be between two clients.
    pub connect_timeout: Duration,
    /// How many instances wait for clients; 16 by default. A client that finds none is told that the
    /// pipe is busy.
    pub backlog: u8,
}

impl PipeConfig {
    /// The pipe called `name`, with the defaults.
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

/// A whole path may have 256 characters, `\\.\pipe\` among them.
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
        // A slash would become a backslash, and a dot alone nothing, on the way to the system.
        if self.name.contains(['/', '\0'])
            || self
                .name
                .split('\\')
                .any(|part| part.is_empty() || part.bytes().all(|byte| byte == b'.'))
        {
            return refuse(r"be one name, or several with a \ between them, without a /");
        }
        if self.security.as_ref().is_some_and(|text| text.contains('\0')) {
            return Err(ConfigError { field: "security", must: "hold no NUL byte" });
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
            return Err(crate::registry::foreign(endpoint));
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
    fn names_that_the_system_would_misread_are_refused() {
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
