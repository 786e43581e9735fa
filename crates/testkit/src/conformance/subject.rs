//! A transport under test with an endpoint to use.

use std::any::Any;

use tieline_transport::{
    BoxConnection, Connection, DynListener, DynTransport, Endpoint, Options, Transport,
    TransportError, TransportKind,
};
use tokio::io::AsyncWriteExt;

/// A transport under test with an endpoint to use.
pub struct Subject {
    transport: Box<dyn DynTransport>,
    endpoint: Endpoint,
    options: Options,
    far_side: FarSide,
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

#[derive(Clone, Copy, PartialEq)]
enum FarSide {
    /// The transport can listen, so that both ends are in this process.
    Listens,
    Echoes,
}

impl Subject {
    /// Creates a subject for a transport that can listen, with an unused endpoint.
    pub fn listening(transport: impl Transport, endpoint: Endpoint) -> Self {
        Self {
            transport: Box::new(transport),
            endpoint,
            options: Options::default(),
            far_side: FarSide::Listens,
            _guard: None,
        }
    }

    /// Creates a subject for a transport whose peer echoes every byte and ends when its input ends.
    pub fn echoing(transport: impl Transport, endpoint: Endpoint) -> Self {
        Self { far_side: FarSide::Echoes, ..Self::listening(transport, endpoint) }
    }

    /// Replaces the default options.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Keeps `guard`, such as the directory of a socket, alive as long as the subject.
    #[must_use]
    pub fn with(mut self, guard: impl Any + Send + Sync) -> Self {
        self._guard = Some(Box::new(guard));
        self
    }

    pub(super) fn kind(&self) -> TransportKind {
        self.transport.kind()
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Connects a line whose peer echoes every byte.
    pub(super) async fn line(&self) -> BoxConnection {
        match self.far_side {
            FarSide::Echoes => self.connect().await.unwrap(),
            FarSide::Listens => {
                let (near, far) = self.pair().await;
                tokio::spawn(echo(far));
                near
            }
        }
    }

    /// Returns both ends of a new line, first the connecting end and then the accepted end.
    pub(super) async fn pair(&self) -> (BoxConnection, BoxConnection) {
        let mut listener = self.listen().await.unwrap();
        let (near, far) = tokio::join!(self.connect(), listener.accept());
        (near.unwrap(), far.unwrap())
    }

    pub(super) async fn connect(&self) -> Result<BoxConnection, TransportError> {
        self.transport.connect(&self.endpoint, &self.options).await
    }

    pub(super) async fn listen(&self) -> Result<Box<dyn DynListener>, TransportError> {
        self.transport.listen(&self.endpoint, &self.options).await
    }
}

async fn echo(connection: BoxConnection) {
    let (mut read, mut write) = connection.into_split();
    // In some checks, the other end is closed early.
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}
