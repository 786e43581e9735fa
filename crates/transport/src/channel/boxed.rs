//! Object-safe versions of the channel traits: one virtual call per message.

use super::{Acceptor, Channel, Connector, Receiver, Sender};
use crate::control::{BoxFuture, Control};
use crate::endpoint::Endpoint;
use crate::error::TransportError;

/// A [`Channel`] over any transport and framing.
pub struct BoxChannel {
    /// Dropped before `sender`, so that dropping the channel does not end the outgoing direction first.
    receiver: Box<dyn Receiver>,
    sender: Box<dyn Sender>,
    control: Control,
}

impl BoxChannel {
    /// Erases the type of `channel`.
    pub fn new(channel: impl Channel) -> Self {
        let control = channel.control().clone();
        let (sender, receiver) = channel.split();
        Self::from_parts(Box::new(sender), Box::new(receiver), control)
    }

    /// Creates a channel from two halves of one line, for wrappers that replace a half.
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

/// The object-safe version of [`Connector`].
pub trait DynConnector: Send + Sync + 'static {
    /// Connects, like [`Connector::connect`].
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>>;
}

impl<C: Connector> DynConnector for C {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async move { Connector::connect(self).await.map(Channel::boxed) })
    }
}

/// The object-safe version of [`Acceptor`].
pub trait DynAcceptor: Send + 'static {
    /// Waits for the next channel, like [`Acceptor::accept`].
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxChannel, TransportError>>;

    /// Returns the endpoint on which this acceptor listens.
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
