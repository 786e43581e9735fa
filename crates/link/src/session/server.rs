//! The server's end of a session: its owner, and the connections that are passed to it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tieline_proto::session::{Frame, Hello, Lease, Position, Refusal, Secret, SessionId, Welcome};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, DynConnector, ErrorKind, LostBy, Operation, Owner,
    Receiver, SenderExt, TransportError, from_now,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::accept::refuse;
use super::core::{Core, Offer, Role};
use super::shared::Shared;
use crate::shared::lock;

/// The live sessions, and those that have ended recently.
#[derive(Default)]
pub(super) struct Table {
    pub(super) live: Mutex<HashMap<SessionId, Weak<Shared>>>,
    /// Sessions that both ends have ended. The last acknowledgement may have been lost with its connection,
    /// so a client that asks gets the same answer again. Oldest first, at most [`EPITAPHS`].
    over: Mutex<VecDeque<Epitaph>>,
}

/// How many ended sessions are remembered.
const EPITAPHS: usize = 1024;

struct Epitaph {
    lease: Lease<Owner>,
    position: Position,
    until: Instant,
}

impl Table {
    fn bury(&self, epitaph: Epitaph) {
        let mut over = lock(&self.over);
        let now = Instant::now();
        while over.len() >= EPITAPHS || over.front().is_some_and(|oldest| oldest.until < now) {
            over.pop_front();
        }
        over.push_back(epitaph);
    }

    /// Returns the final state of an ended session, as a welcome for the client that is authorized to
    /// resume it.
    pub(super) fn epitaph(&self, hello: &Hello, owner: &Owner) -> Option<Welcome> {
        let mut over = lock(&self.over);
        let position = hello.position;
        let epitaph = over
            .iter_mut()
            .find(|it| it.until >= Instant::now() && it.lease.check(hello, owner).is_ok())?;
        // Only if the client has received everything.
        if position.received != epitaph.position.sent {
            return None;
        }
        let secret = Secret(random()?);
        epitaph.lease.resume(hello, owner, secret, epitaph.position).ok()
    }
}

/// The state of the server's end of a session, besides its messages.
pub(super) struct Server {
    pub(super) lease: Lease<Owner>,
    /// The first welcome, until it was sent.
    pub(super) first: Option<Welcome>,
    pub(super) offer: Option<Offer>,
    pub(super) offered: Arc<Notify>,
    pub(super) table: Weak<Table>,
    pub(super) grace: Duration,
}

impl Server {
    /// Records that a frame was received over the current connection.
    pub(super) fn seen(&mut self) {
        self.lease.seen();
    }

    pub(super) fn epoch(&self) -> u64 {
        self.lease.epoch()
    }

    /// Removes the session from the table. `position` is its final one if both ends have ended it.
    pub(super) fn over(&self, position: Option<Position>) {
        let Some(table) = self.table.upgrade() else { return };
        if let Some(position) = position {
            let until = from_now(self.grace);
            table.bury(Epitaph { lease: self.lease.clone(), position, until });
        }
        lock(&table.live).remove(&self.lease.session());
    }
}

/// The server's connector, which waits for the client to connect.
pub(super) struct Handed {
    pub(super) shared: Weak<Shared>,
}

impl Handed {
    async fn connect(&self) -> Result<BoxChannel, TransportError> {
        let gone =
            || TransportError::new(ErrorKind::Closed(CloseReason::ByPeer), Operation::Accept);
        let shared = self.shared.upgrade().ok_or_else(gone)?;
        let (grace, limit) = (shared.options.grace, shared.options.handshake_timeout);
        let deadline = from_now(grace);
        loop {
            let (granted, usual, offered, is_first) = {
                let mut core = shared.core();
                let Role::Server(server) = &mut core.role else { return Err(gone()) };
                let is_first = server.first.is_some();
                let (offer, offered) = (server.offer.take(), server.offered.clone());
                let usual = offer.as_ref().and_then(|offer| offer.usual);
                let granted = offer.map(|offer| shared.grant(&mut core, offer));
                (granted, usual, offered, is_first)
            };
            match granted {
                None => {}
                Some(Ok((line, welcome))) => {
                    let control = line.control().clone();
                    let (mut sender, mut receiver) = line.split();
                    if let Some(usual) = usual {
                        receiver.limit_to(usual);
                    }
                    let welcome = Frame::Welcome(welcome).to_bytes();
                    if let Ok(Ok(())) = timeout(limit, sender.send(welcome)).await {
                        return Ok(BoxChannel::from_parts(sender, receiver, control));
                    }
                    if is_first {
                        return Err(gone());
                    }
                }
                Some(Err((line, refusal))) => refuse(line, limit, refusal, "").await,
            }
            tokio::select! {
                () = offered.notified() => {}
                () = sleep_until(deadline) => {
                    shared.expired(grace);
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

impl Shared {
    /// Begins or resumes the session on an offered connection.
    fn grant(
        &self,
        core: &mut Core,
        offer: Offer,
    ) -> Result<(BoxChannel, Welcome), (BoxChannel, Refusal)> {
        let Offer { line, hello, .. } = offer;
        let Core { role: Role::Server(server), machine, .. } = core else {
            return Err((line, Refusal::Unknown));
        };
        if let Some(welcome) = server.first.take() {
            self.resumed(core, 0);
            return Ok((line, welcome));
        }
        let Some(secret) = random() else { return Err((line, Refusal::Full)) };
        let owner = Owner::of(line.control());
        let position = machine.position();
        let granted = server
            .lease
            .check(&hello, &owner)
            .and_then(|()| machine.resume(hello.position))
            .and_then(|_| server.lease.resume(&hello, &owner, Secret(secret), position));
        match granted {
            Ok(welcome) => {
                self.resumed(core, hello.position.received);
                Ok((line, welcome))
            }
            Err(refusal) => Err((line, refusal)),
        }
    }

    /// Ends a session that was not resumed in time. The session's task is running this, so it needs no
    /// waking.
    fn expired(&self, grace: Duration) {
        let mut core = self.core();
        core.doom = Some(core.lost(LostBy::Expired(grace)));
    }
}

impl DynConnector for Handed {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(self.connect())
    }
}

/// Returns unpredictable random bits.
pub(super) fn random() -> Option<[u8; 16]> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).ok()?;
    Some(bits)
}
