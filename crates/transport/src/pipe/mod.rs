//! Windows named pipes. By default, only their owner can connect. There is always an instance that
//! listens.
//!
//! The platform-independent part is here. The implementation is in `windows/pipe`. On other systems,
//! every use is refused with a hint.

pub(crate) mod config;
#[cfg(not(windows))]
mod elsewhere;

#[cfg(windows)]
use crate::windows::pipe as system;
#[cfg(not(windows))]
use elsewhere as system;

pub use self::config::PipeConfig;
pub use system::{PipeConnection, PipeListener};

use self::config::PROFILE;
use crate::endpoint::{Address, Endpoint};
use crate::error::TransportError;
use crate::info::TransportKind;
use crate::options::Options;
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
