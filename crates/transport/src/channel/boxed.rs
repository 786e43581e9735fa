//! The object-safe twins: one virtual call a message at the edge, none a byte.

use super::{Acceptor, Channel, Connector, Receiver, Sender};
use crate::{BoxFuture, Control, Endpoint, TransportError};

/// A [`Channel`] over any transport and framing.
pub struct BoxChannel {
    /// Dropped first: who drops a whole line does not end one direction of it before.
    receiver: Box<dyn Receiver>,
    sender: Box<dyn Sender>,
    control: Control,
}

impl BoxChannel {
    /// Forgets the type of `channel`.
    pub fn new(channel: impl Channel) -> Self {
        let control = channel.control().clone();
        let (sender, receiver) = channel.split();
        Self::from_parts(Box::new(sender), Box::new(receiver), control)
    }

    /// A channel of two halves that belong together, for those who put something in between.
    pub fn from_parts(
        sender: Box<dyn Sender>,
        receiver: Box<dyn Receiver>,
        control: Control,
    ) -> Self {
        Self { sender, receiver, control }
    }
}

impl Channel for BoxChannel {
    type Sender = Box<dyn Sender>;
    type Receiver = Box<dyn Receiver>;

    fn control(&self) -> &Control {
        &self.control
    }

    fn split(self) -> (Self::Sender, Self::Receiver) {
        (self.sender, self.receiver)
    }

    fn boxed(self) -> BoxChannel {
        self
    }
}

/// The object-safe twin of [`Connector`].
pub trait DynConnector: Send + Sync + 'static {
    /// As [`Connector::connect`].
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>>;
}

impl<C: Connector> DynConnector for C {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async move { Connector::connect(self).await.map(Channel::boxed) })
    }
}

/// The object-safe twin of [`Acceptor`].
pub trait DynAcceptor: Send + 'static {
    /// As [`Acceptor::accept`].
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxChannel, TransportError>>;

    /// Where it listens.
    fn endpoint(&self) -> &Endpoint;
}

impl<A: Acceptor> DynAcceptor for A {
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async move { Acceptor::accept(self).await.map(Channel::boxed) })
    }

    fn endpoint(&self) -> &Endpoint {
        Acceptor::endpoint(self)
    }
}
