//! Named pipes on systems that lack them. The types exist, and every use fails with a hint.

use tokio::io::DuplexStream;

use super::config::PipeConfig;
use crate::connection::IoConnection;
use crate::endpoint::Endpoint;
use crate::error::{ErrorKind, Operation, TransportError};
use crate::transport::NoListener;

/// A connection over a named pipe. It has no values outside Windows.
pub type PipeConnection = IoConnection<DuplexStream, DuplexStream>;

/// A listener on a named pipe. It has no values outside Windows.
pub type PipeListener = NoListener<PipeConnection>;

/// The hint of all errors here.
pub(crate) const INSTEAD: &str = "named pipes exist only on Windows; use unix: here";

pub(super) async fn connect(
    _: &PipeConfig,
    _: &Endpoint,
) -> Result<PipeConnection, TransportError> {
    Err(unsupported(Operation::Connect))
}

pub(super) fn listen(_: &PipeConfig, _: &Endpoint) -> Result<PipeListener, TransportError> {
    Err(unsupported(Operation::Listen))
}

pub(super) fn unsupported(operation: Operation) -> TransportError {
    TransportError::new(ErrorKind::UnsupportedPlatform, operation).with_hint(INSTEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, Pipe, Registry, Transport};

    #[tokio::test]
    async fn every_use_fails_with_a_hint() {
        let config = PipeConfig::new("agent");
        let endpoint: Endpoint = "pipe:agent".parse().unwrap();
        let (registry, options) = (Registry::new(), Options::default());
        for error in [
            Pipe.connect(&config).await.err().unwrap(),
            Pipe.listen(&config).await.err().unwrap(),
            registry.connector(&endpoint, &options).err().unwrap(),
            registry.connect(&endpoint, &options).await.err().unwrap(),
            registry.listen(&endpoint, &options).await.err().unwrap(),
        ] {
            assert!(matches!(error.kind(), ErrorKind::UnsupportedPlatform), "{error}");
            assert_eq!(error.endpoint(), Some(&endpoint));
            assert!(error.hint().unwrap().contains("use unix:"), "{error:?}");
        }
    }
}
