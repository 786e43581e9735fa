//! The client's connection, and the server's responses to its greeting.

use tieline_proto::session::{Frame, Refusal, Ticket, Welcome};

use super::direction::Direction;
use super::network::{Event, MILLISECOND, SECOND, Who};
use super::world::{Kind, World};

impl World<'_> {
    /// Opens a connection, unless there is one, and sends the greeting.
    pub(super) fn connect(&mut self) {
        if self.client.connection.is_some() {
            return;
        }
        let delay = self.random.pick(&[50, MILLISECOND, 20 * MILLISECOND, 150 * MILLISECOND]);
        let is_late = self.faults > 0 && self.random.percent(10);
        let late = if is_late { self.now + self.random.below(4 * SECOND) } else { 0 };
        let window = self.random.pick(&[30, 1000, 20_000, 64_000]);
        let cuts = self.plan_cuts();
        let connection = self.network.open(delay, late, window, cuts);
        self.totals.connections += 1;
        self.client.connection = Some(connection);
        self.is_open = false;
        let hello = match &self.ticket {
            None => Ticket::ask(),
            Some(ticket) => ticket.present(self.client.session.position()),
        };
        self.tell(|| format!("client: connects, {connection}, {cuts:?}, {hello:?}"));
        self.put(connection, Direction::ToServer, Frame::Hello(hello));
        self.events.push(self.now + 2 * SECOND, Event::Timeout(connection));
    }

    pub(super) fn welcomed(&mut self, welcome: &Welcome) -> Result<(), String> {
        if self.is_open {
            return Err("welcomed twice".to_owned());
        }
        let renewed = match &mut self.ticket {
            Some(ticket) => ticket.renewed(welcome),
            None => Ticket::granted(welcome).map(|ticket| self.ticket = Some(ticket)),
        };
        renewed.map_err(|error| error.to_string())?;
        let known = self.records.iter().position(|record| record.id == welcome.session);
        self.client.record = known;
        if welcome.epoch > 1
            && let Err(refusal) = self.client.session.resume(welcome.position)
        {
            return self.over(refusal);
        }
        self.is_open = true;
        self.tell(|| format!("client: welcome, epoch {}", welcome.epoch));
        if self.kind == Kind::RolledBack {
            self.check_agreement()?;
        }
        self.pump(Who::Client)
    }

    pub(super) fn refused(&mut self, refusal: Refusal) -> Result<(), String> {
        self.tell(|| format!("client: {refusal}"));
        if refusal.may_pass() {
            self.abandon();
            return Ok(());
        }
        self.over(refusal)
    }

    /// Handles a refusal after which the client's session cannot be resumed.
    fn over(&mut self, refusal: Refusal) -> Result<(), String> {
        match self.kind {
            Kind::Kept => return Err(format!("refused although nothing was forgotten: {refusal}")),
            // A refusal is allowed after a rollback and ends the run.
            Kind::RolledBack => {
                self.totals.ended += 1;
                self.is_done = true;
                return self.client.check_words(&self.records);
            }
            Kind::Lost => {}
        }
        self.abandon();
        self.end_client()
    }
}
