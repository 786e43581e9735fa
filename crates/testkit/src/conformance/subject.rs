//! A transport under test, and where to use it.

use std::any::Any;

use tieline_transport::{
    BoxConnection, Connection, DynListener, DynTransport, Endpoint, Options, Transport,
    TransportError, TransportKind,
};
use tokio::io::AsyncWriteExt;

/// A transport under test, and where to use it.
pub struct Subject {
    transport: Box<dyn DynTransport>,
    endpoint: Endpoint,
    options: Options,
    far_side: FarSide,
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

#[derive(Clone, Copy, PartialEq)]
enum FarSide {
    /// It is ours too.
    Listens,
    Echoes,
}

impl Subject {
    /// A transport that listens, at a place where there is nothing yet.
    pub fn listening(transport: impl Transport, endpoint: Endpoint) -> Self {
        Self {
            transport: Box::new(transport),
            endpoint,
            options: Options::default(),
            far_side: FarSide::Listens,
            _guard: None,
        }
    }

    /// A transport that connects to something that gives back every byte, and ends when its input
    /// does.
    pub fn echoing(transport: impl Transport, endpoint: Endpoint) -> Self {
        Self { far_side: FarSide::Echoes, ..Self::listening(transport, endpoint) }
    }

    /// The same, with other options than the defaults.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// The same, with something that must live as long: the directory of a socket.
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

    /// A line whose far side gives back every byte.
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

    /// Both ends of a line: the one that connected, and the one that was accepted.
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
    // A near side that went away in the middle is a part of some checks.
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}
