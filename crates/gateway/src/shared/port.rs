//! A client's channel to a shared program.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tieline_transport::{
    Backing, Capabilities, Channel, Control, ControlBuilder, Incoming, Receiver, SendError, Sender,
};

use super::exchange::Exchange;
use super::hub::ClientId;

/// A client's channel to a shared program. Dropping both halves removes the client.
pub(super) struct Port {
    sender: PortSender,
    receiver: PortReceiver,
    control: Control,
}

pub(super) struct PortSender(Arc<Seat>);

pub(super) struct PortReceiver(Arc<Seat>, Control);

/// The place of a client in an exchange.
struct Seat {
    exchange: Arc<Exchange>,
    client: ClientId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.exchange.leave(self.client);
    }
}

/// Reports the shared process as the client's own.
struct Program(Control);

impl Backing for Program {
    fn child(&self) -> Option<u32> {
        self.0.child()
    }

    fn is_stopped(&self) -> bool {
        self.0.is_child_stopped()
    }
}

impl Port {
    /// Adds a client to a running program. Returns `None` if the program is ending or has ended.
    pub(super) fn new(exchange: &Arc<Exchange>, program: &Control) -> Option<Self> {
        let client = exchange.join()?;
        let seat = Arc::new(Seat { exchange: exchange.clone(), client });
        let control = ControlBuilder {
            kind: program.kind(),
            endpoint: program.endpoint().clone(),
            peer: None,
            capabilities: Capabilities { half_close: true, ..Capabilities::default() },
            profile: program.profile(),
            backing: Arc::new(Program(program.clone())),
        };
        let control = control.build();
        let receiver = PortReceiver(seat.clone(), control.clone());
        Some(Self { sender: PortSender(seat), receiver, control })
    }
}

impl Channel for Port {
    type Sender = PortSender;
    type Receiver = PortReceiver;

    fn control(&self) -> &Control {
        &self.control
    }

    fn split(self) -> (PortSender, PortReceiver) {
        (self.sender, self.receiver)
    }
}

impl Sender for PortSender {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.0.exchange.poll_ready(self.0.client, cx)
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        self.0.exchange.push(self.0.client, message)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.0.exchange.poll_taken(self.0.client, cx)
    }

    fn unwritten(&self) -> usize {
        self.0.exchange.unwritten(self.0.client)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let taken = ready!(self.0.exchange.poll_taken(self.0.client, cx));
        self.0.exchange.end_input(self.0.client);
        Poll::Ready(taken)
    }
}

impl Receiver for PortReceiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let incoming = ready!(self.0.exchange.poll_output(self.0.client, cx));
        Poll::Ready(match incoming {
            Incoming::End(reason) => Incoming::End(self.1.end(reason)),
            other => other,
        })
    }
}
