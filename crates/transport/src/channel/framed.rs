//! Connectors, acceptors and channels made of a byte-stream transport and a framing.

use std::time::Instant;

use tieline_proto::Framing;
use tieline_proto::session::user_refusal;

use super::{Acceptor, Channel, Connector, FramedReceiver, FramedSender};
use crate::budget::MemoryBudget;
use crate::connection::Connection;
use crate::control::Control;
use crate::endpoint::Endpoint;
use crate::error::TransportError;
use crate::options::ChannelConfig;
use crate::transport::{Listener, RefusalNotice, Transport, TransportConfig};

/// A [`Connector`] over the transport `T` with the framing `F`.
#[derive(Clone, Debug)]
pub struct Framed<T: Transport, F> {
    transport: T,
    config: T::Config,
    framing: F,
    channel: ChannelConfig,
    memory: Option<MemoryBudget>,
}

impl<T: Transport, F: Framing> Framed<T, F> {
    /// Creates a connector after validating both configurations. Does no I/O.
    ///
    /// # Errors
    /// A configuration value is out of bounds.
    pub fn new(
        transport: T,
        config: T::Config,
        framing: F,
        channel: ChannelConfig,
    ) -> Result<Self, TransportError> {
        config.validate()?;
        channel.validate()?;
        Ok(Self { transport, config, framing, channel, memory: None })
    }

    /// Counts the memory of its channels against `budget`.
    #[must_use]
    pub fn within(mut self, budget: Option<MemoryBudget>) -> Self {
        self.memory = budget;
        self
    }

    /// Starts listening.
    ///
    /// # Errors
    /// See [`Transport::listen`].
    pub async fn listen(self) -> Result<FramedAcceptor<T::Listener, F>, TransportError> {
        let mut listener = self.transport.listen(&self.config).await?;
        listener.refuse_with(RefusalNotice { bytes: user_refusal(), is_response: false });
        let Self { framing, channel, memory, .. } = self;
        Ok(FramedAcceptor { listener, framing, channel, memory })
    }
}

impl<T: Transport, F: Framing> Connector for Framed<T, F> {
    type Channel = FramedChannel<T::Connection, F>;

    async fn connect(&self) -> Result<Self::Channel, TransportError> {
        let begun = Instant::now();
        let connection = self.transport.connect(&self.config).await?;
        connection.control().note_connect(begun.elapsed());
        let channel = FramedChannel::new(connection, self.framing.clone(), self.channel);
        Ok(channel.within(self.memory.as_ref()))
    }
}

/// An [`Acceptor`] over the listener `L` with the framing `F`.
pub struct FramedAcceptor<L, F> {
    listener: L,
    framing: F,
    channel: ChannelConfig,
    memory: Option<MemoryBudget>,
}

impl<L: Listener, F: Framing> Acceptor for FramedAcceptor<L, F> {
    type Channel = FramedChannel<L::Connection, F>;

    async fn accept(&mut self) -> Result<Self::Channel, TransportError> {
        let connection = self.listener.accept().await?;
        connection.control().set_accepted();
        let channel = FramedChannel::new(connection, self.framing.clone(), self.channel);
        Ok(channel.within(self.memory.as_ref()))
    }

    fn endpoint(&self) -> &Endpoint {
        self.listener.endpoint()
    }
}

/// A [`Channel`] over one connection with one framing.
pub struct FramedChannel<C: Connection, F> {
    sender: FramedSender<C::WriteHalf, F>,
    receiver: FramedReceiver<C::ReadHalf, F>,
    control: Control,
}

impl<C: Connection, F: Framing> FramedChannel<C, F> {
    /// Creates a channel that uses `framing` on `connection`.
    pub fn new(connection: C, framing: F, config: ChannelConfig) -> Self {
        let (control, framing) = (connection.control().clone(), framing.for_line());
        if let Some(kind) = framing.kind() {
            control.set_framing(kind);
        }
        let (read, write) = connection.into_split();
        Self {
            sender: FramedSender::new(write, framing.clone(), config, control.clone()),
            receiver: FramedReceiver::new(read, framing, control.clone()),
            control,
        }
    }

    /// Counts the channel's memory against `budget`.
    #[must_use]
    pub fn within(mut self, budget: Option<&MemoryBudget>) -> Self {
        self.sender = self.sender.within(budget);
        self.receiver = self.receiver.within(budget);
        self
    }
}

impl<C: Connection, F: Framing> Channel for FramedChannel<C, F> {
    type Sender = FramedSender<C::WriteHalf, F>;
    type Receiver = FramedReceiver<C::ReadHalf, F>;

    fn control(&self) -> &Control {
        &self.control
    }

    fn split(self) -> (Self::Sender, Self::Receiver) {
        (self.sender, self.receiver)
    }
}
