//! Which end of a session this is, and the state that only that end has.

use std::sync::Arc;

use tieline_proto::ByteSize;
use tieline_proto::session::{
    Farewell, Hello, Lease, Refusal, Secret, Sequence, SessionMachine, Ticket, Welcome,
};
use tieline_transport::{BoxChannel, CloseReason, Owner};
use tokio::sync::Notify;

/// Which end of the session this is.
pub(in crate::session) enum Role {
    /// The ticket to resume the session; `None` until it is granted.
    Client(Option<Ticket>),
    Server(Box<ServerRole>),
}

impl Role {
    pub(super) fn epoch(&self) -> u64 {
        match self {
            Self::Client(ticket) => ticket.as_ref().map_or(0, Ticket::epoch),
            Self::Server(server) => server.lease.epoch(),
        }
    }

    /// Records that a frame was received over the current connection.
    pub(super) fn seen(&mut self) {
        if let Self::Server(server) = self {
            server.lease.seen();
        }
    }
}

/// A connection on which a client has sent its greeting.
pub(in crate::session) struct Offer {
    pub(in crate::session) line: BoxChannel,
    /// The message limit after the handshake.
    pub(in crate::session) usual: Option<ByteSize>,
    pub(in crate::session) hello: Hello,
}

/// What the client of a session that its server has ended is still to receive.
pub(in crate::session) struct Remains {
    /// Keeps the messages that the client has not acknowledged.
    pub(in crate::session) machine: SessionMachine,
    pub(in crate::session) farewell: Farewell,
}

/// A callback for the end of a server's session, with what its client is still to receive.
pub(in crate::session) type OnOver =
    Box<dyn Fn(&Lease<Owner>, Option<Remains>, Option<CloseReason>) + Send + Sync>;

/// The state of the server's end of a session, besides its messages.
pub(in crate::session) struct ServerRole {
    lease: Lease<Owner>,
    /// The first welcome, until it is sent.
    first: Option<Welcome>,
    offer: Option<Offer>,
    offered: Arc<Notify>,
    on_over: OnOver,
}

impl ServerRole {
    /// Creates the state of a session that begins on an offered connection.
    pub(in crate::session) fn new(
        (lease, welcome): (Lease<Owner>, Welcome),
        offer: Offer,
        on_over: OnOver,
    ) -> Self {
        let offered = Arc::new(Notify::new());
        Self { lease, first: Some(welcome), offer: Some(offer), offered, on_over }
    }

    /// Returns whether the session has not begun yet.
    pub(in crate::session) fn is_new(&self) -> bool {
        self.first.is_some()
    }

    /// Returns the offered connection, if any, and the notification of the next one.
    pub(in crate::session) fn take_offer(&mut self) -> (Option<Offer>, Arc<Notify>) {
        (self.offer.take(), self.offered.clone())
    }

    /// Checks whether this client may resume the session.
    pub(super) fn check(&self, hello: &Hello, owner: &Owner) -> Result<(), Refusal> {
        self.lease.check(hello, owner)
    }

    /// Offers a connection to the connector. Returns the one that it replaces.
    pub(super) fn offer(&mut self, offer: Offer) -> Option<Offer> {
        self.offered.notify_one();
        self.offer.replace(offer)
    }

    /// Begins or resumes the session. Returns the welcome, and the number of the last message that the
    /// other end has received.
    pub(super) fn grant(
        &mut self,
        hello: &Hello,
        owner: &Owner,
        machine: &mut SessionMachine,
    ) -> Result<(Welcome, Sequence), Refusal> {
        if let Some(welcome) = self.first.take() {
            return Ok((welcome, 0));
        }
        let secret = Secret(random().ok_or(Refusal::Full)?);
        let position = machine.position();
        self.lease.check(hello, owner)?;
        machine.resume(hello.position)?;
        let welcome = self.lease.resume(hello, owner, secret, position)?;
        Ok((welcome, hello.position.received))
    }

    /// Returns whether `owner` owns the session.
    pub(super) fn belongs_to(&self, owner: &Owner) -> bool {
        self.lease.principal() == owner
    }

    /// Reports that the session is over, and why it failed, if it did.
    pub(super) fn over(&self, remains: Option<Remains>, failure: Option<CloseReason>) {
        (self.on_over)(&self.lease, remains, failure);
    }
}

/// Returns unpredictable random bits.
pub(in crate::session) fn random() -> Option<[u8; 16]> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).ok()?;
    Some(bits)
}
