//! Handshakes, and the state changes at the start of a new connection.

use std::time::Duration;

use tieline_proto::session::{Delivered, Hello, Refusal, Sequence, Ticket, Welcome};
use tieline_transport::{Channel, CloseReason, LostBy, Owner, Reset};

use super::{Item, Offer, Role, ServerRole, SessionState};
use crate::session::options::SessionOptions;

impl SessionState {
    /// Returns the client's greeting, and whether it resumes a session.
    pub(in crate::session) fn greeting(&self) -> (Hello, bool) {
        match &self.role {
            Role::Client(Some(ticket)) => (ticket.present(self.machine.position()), true),
            _ => (Ticket::ask(), false),
        }
    }

    /// Processes the server's welcome.
    pub(in crate::session) fn welcomed(&mut self, welcome: &Welcome) -> Result<(), CloseReason> {
        let Self { machine, role, .. } = self;
        let Role::Client(ticket) = role else { return Err(CloseReason::ByUs) };
        let granted = match ticket {
            Some(ticket) => match machine.check(welcome.position) {
                Ok(()) => ticket.renewed(welcome),
                Err(refusal) => return Err(self.lost(LostBy::Refused(refusal, String::new()))),
            },
            None => Ticket::granted(welcome).map(|granted| *ticket = Some(granted)),
        };
        if let Err(violation) = granted {
            return Err(self.lost(LostBy::Violation(violation)));
        }
        // This was checked above.
        let _ = self.machine.resume(welcome.position);
        Ok(())
    }

    /// Handles a session that cannot be resumed. Returns whether to request a new one, which is not
    /// necessary if this one was ending.
    pub(in crate::session) fn forget(
        &mut self,
        refusal: Refusal,
        text: String,
        options: &SessionOptions,
    ) -> bool {
        let cause = self.lost(LostBy::Refused(refusal, text));
        let Delivered { acknowledged, sent } = self.machine.delivered();
        let lost = sent - acknowledged;
        let (by_us, by_peer) = (self.ending.is_closing(), self.ending.has_peer_ended());
        if by_us || by_peer {
            // Only the last acknowledgement was missing.
            let is_well = lost == 0 && by_us && by_peer;
            self.ending.doom(if is_well { CloseReason::ByPeer } else { cause });
            return false;
        }
        self.counted.messages_out += sent;
        self.counted.messages_in += self.machine.position().received;
        self.machine = options.machine();
        self.progress.forget();
        self.role = Role::Client(None);
        self.renewal.begin(lost, cause);
        true
    }

    /// Returns the server's part of the state, or `None` on the client.
    pub(in crate::session) fn server(&mut self) -> Option<&mut ServerRole> {
        match &mut self.role {
            Role::Server(server) => Some(server),
            Role::Client(_) => None,
        }
    }

    /// Passes a connection to the server's connector, if its client is authorized. Returns an earlier one
    /// that is still waiting.
    pub(in crate::session) fn offer(
        &mut self,
        offer: Offer,
        owner: &Owner,
    ) -> Result<Option<Offer>, (Box<Offer>, Refusal)> {
        let fits = self.machine.check(offer.hello.position);
        let is_over = self.is_finished();
        match &mut self.role {
            Role::Server(server) if !is_over => match server.check(&offer.hello, owner).and(fits) {
                Ok(()) => Ok(server.offer(offer)),
                Err(refusal) => Err((Box::new(offer), refusal)),
            },
            _ => Err((Box::new(offer), Refusal::Unknown)),
        }
    }

    /// Begins or resumes the session on an offered connection. Returns the welcome, and the number of
    /// the last message that the other end has received.
    pub(in crate::session) fn grant(
        &mut self,
        offer: &Offer,
    ) -> Result<(Welcome, Sequence), Refusal> {
        let Role::Server(server) = &mut self.role else { return Err(Refusal::Unknown) };
        server.grant(&offer.hello, &Owner::of(offer.line.control()), &mut self.machine)
    }

    /// Begins a new connection, after the handshake. The other end has received all messages up to
    /// `received`; the previous connection ended for the reason `last`.
    pub(in crate::session) fn resumed(
        &mut self,
        received: Sequence,
        now: Duration,
        max_tries: u32,
        last: Option<CloseReason>,
    ) {
        self.now = now;
        if let Some(reason) = self.find_undeliverable(received, max_tries, last) {
            self.ending.doom(reason);
        }
        self.connection += 1;
        self.reading.unfence();
        self.liveness.begin(self.heartbeat, now);
        // Report to the consumer that a lost session was replaced.
        if let Some((lost, cause)) = self.renewal.take_reset() {
            let reset = Reset { epoch: self.connection, lost, cause };
            self.inbound.push(Item::Reset(self.renewal.generation(), Box::new(reset)));
        }
    }

    /// Ignores all further frames on the current connection, and wakes the task.
    pub(in crate::session) fn fence(&mut self) {
        self.reading.fence();
        self.wakers.wake_task();
    }

    /// Records a new connection. The other end has received all messages up to `received`. Returns the
    /// reason to end the session if the next message cannot be delivered.
    fn find_undeliverable(
        &mut self,
        received: Sequence,
        max_tries: u32,
        last: Option<CloseReason>,
    ) -> Option<CloseReason> {
        let acknowledged = self.machine.delivered().acknowledged;
        let next = self.machine.kept_message(received.saturating_sub(acknowledged));
        let positions = (received, self.machine.position().received);
        let tries = self.progress.try_again(positions, next.is_some(), self.now)?;
        let bytes = next.filter(|_| tries >= max_tries)?;
        self.ending.undeliverable();
        Some(self.lost(LostBy::Undeliverable { bytes, tries, last }))
    }
}
