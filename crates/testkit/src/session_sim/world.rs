//! One run of the simulation, with its clock and its events.

use std::time::Duration;

use tieline_proto::session::{Frame, Received, Ticket};

use super::coverage::{Coverage, Totals};
use super::direction::{Direction, Side};
use super::end::{End, Record};
use super::memory::{Remembered, Served};
use super::messages::Messages;
use super::network::{Accepted, Event, Events, MILLISECOND, Network, SECOND, Time, Who};
use crate::random::Random;

/// A limit that exceeds the number of events of any run.
const MAX_EVENTS: u64 = 2_000_000;

/// The extent to which an end may forget its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The end forgets nothing that the other has seen, so the guarantee must hold without conditions.
    Kept,
    /// The end may forget its state after some moment.
    RolledBack,
    /// The end may forget its entire state.
    Lost,
}

pub(super) struct World<'a> {
    messages: &'a Messages,
    tells: bool,
    pub(super) coverage: &'a mut Coverage,
    pub(super) totals: &'a mut Totals,
    pub(super) kind: Kind,
    pub(super) random: Random,
    pub(super) now: Time,
    pub(super) events: Events,
    pub(super) network: Network,
    pub(super) client: End,
    pub(super) ticket: Option<Ticket>,
    /// Whether the client was welcomed on its connection.
    pub(super) is_open: bool,
    pub(super) table: Vec<Option<Served>>,
    pub(super) server_life: u32,
    pub(super) records: Vec<Record>,
    /// The number of failures that may still happen.
    pub(super) faults: u64,
    pub(super) to_server: usize,
    pub(super) to_client: usize,
    pub(super) snapshot: Option<(Side, Box<Remembered>)>,
    pub(super) thawed: Option<(Side, Box<Remembered>)>,
    pub(super) is_done: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(
        seed: u64,
        messages: &'a Messages,
        tells: bool,
        coverage: &'a mut Coverage,
        totals: &'a mut Totals,
    ) -> Self {
        let mut random = Random::new(seed);
        let kind = match seed % 10 {
            0..7 => Kind::Kept,
            7 => Kind::RolledBack,
            _ => Kind::Lost,
        };
        let most = messages.most();
        let to_server = match random.below(4) {
            // The client sends only acknowledgements.
            0 => 0,
            1 => random.below(most as u64 + 1) as usize,
            _ => most / 2,
        };
        Self {
            messages,
            tells,
            coverage,
            totals,
            kind,
            now: 0,
            events: Events::default(),
            network: Network::default(),
            client: End::new(Side::Client, 0, to_server, &mut random),
            ticket: None,
            is_open: false,
            table: Vec::new(),
            server_life: 0,
            records: Vec::new(),
            faults: random.pick(&[2, 10, 20, 40]),
            to_server,
            to_client: most - to_server,
            snapshot: None,
            thawed: None,
            is_done: false,
            random,
        }
    }

    pub(super) fn run(mut self) -> Result<(), String> {
        self.totals.runs += 1;
        self.events.push(0, Event::Connect);
        self.events.push(0, Event::Produce(Who::Client));
        self.events.push(self.random.below(100 * MILLISECOND), Event::Fault);
        while let Some((at, event)) = self.events.pop() {
            self.now = at;
            self.handle(event)?;
            if self.is_done {
                return self.check_words();
            }
            if self.events.count() > MAX_EVENTS {
                return Err(format!("no end after {} s", self.now / SECOND));
            }
        }
        Err(format!("no more events after {} µs, but not everything is delivered", self.now))
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Arrive(connection, direction) => self.arrive(connection, direction),
            Event::Learn(connection, Side::Client) => {
                if self.client.connection == Some(connection) {
                    self.abandon();
                }
                Ok(())
            }
            Event::Learn(connection, Side::Server) => {
                self.detach(connection);
                Ok(())
            }
            Event::Connect => {
                self.connect();
                Ok(())
            }
            Event::Timeout(connection) => {
                if self.client.connection == Some(connection) && !self.is_open {
                    self.abandon();
                }
                Ok(())
            }
            Event::Wake(who) => {
                if let Some(end) = self.end(who) {
                    end.wake = None;
                }
                self.pump(who)
            }
            Event::Produce(who) => self.produce(who),
            Event::Commit(who) => self.commit(who),
            Event::Fault => self.fault(),
            Event::Thaw(side) => self.thaw(side),
            Event::Expire(record, since) => self.expire(record, since),
        }
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            eprintln!("{:>12} µs  {}", self.now, what());
        }
    }

    pub(super) fn end(&mut self, who: Who) -> Option<&mut End> {
        match who {
            Who::Client => Some(&mut self.client),
            Who::Server(record) => self.table.get_mut(record)?.as_mut().map(|it| &mut it.end),
        }
    }

    /// Returns the connection on which an end may send.
    pub(super) fn connection_of(&mut self, who: Who) -> Option<usize> {
        match who {
            Who::Client if !self.is_open => None,
            _ => self.end(who)?.connection,
        }
    }

    /// Sends a frame that does not come from the state machine.
    pub(super) fn put(&mut self, connection: usize, direction: Direction, frame: Frame) {
        let is_cut = self.network.write(connection, direction, frame, self.coverage);
        self.send_off(connection, direction, is_cut);
    }

    fn send_off(&mut self, connection: usize, direction: Direction, is_cut: bool) {
        let (random, events) = (&mut self.random, &mut self.events);
        self.network.flush(self.now, connection, direction, random, events);
        if is_cut {
            self.cut(connection, direction);
        }
    }

    /// Sends the frames of the state machine for which the connection has room.
    pub(super) fn pump(&mut self, who: Who) -> Result<(), String> {
        let now = self.now;
        if let Some(end) = self.end(who)
            && end.waits_for_room
            && end.session.has_room()
        {
            end.waits_for_room = false;
            self.events.push(now, Event::Produce(who));
        }
        let Some(connection) = self.connection_of(who) else { return Ok(()) };
        let direction = match who {
            Who::Client => Direction::ToServer,
            Who::Server(_) => Direction::ToClient,
        };
        let mut is_cut = false;
        while self.network.has_room(connection, direction) {
            let Some(end) = self.end(who) else { break };
            let Some(frame) = end.session.next(Duration::from_micros(now)) else {
                if let Some(at) = end.session.wake_at() {
                    let at = at.as_micros() as Time;
                    if end.wake.is_none_or(|wake| at < wake) {
                        end.wake = Some(at);
                        self.events.push(at, Event::Wake(who));
                    }
                }
                break;
            };
            is_cut |= self.network.write(connection, direction, frame, self.coverage);
        }
        self.send_off(connection, direction, is_cut);
        Ok(())
    }

    fn produce(&mut self, who: Who) -> Result<(), String> {
        let messages = self.messages;
        let mut random = self.random.clone();
        let pause = match self.end(who) {
            None => return Ok(()),
            Some(end) => end.produce(messages, &mut random)?,
        };
        self.random = random;
        if let Some(pause) = pause {
            self.events.push(self.now + pause, Event::Produce(who));
        }
        self.pump(who)
    }

    fn commit(&mut self, who: Who) -> Result<(), String> {
        let now = self.now;
        let mut random = self.random.clone();
        let Some(end) = self.end(who) else { return Ok(()) };
        end.is_commit_planned = false;
        if end.commits {
            end.commit(now, &mut random);
        }
        self.random = random;
        self.note(who);
        self.pump(who)
    }

    /// Records the position of an end and schedules the commit of the messages that are not committed
    /// yet.
    fn note(&mut self, who: Who) {
        let now = self.now;
        // A consumer may be slow, and commit after the connection has ended or during a handshake.
        let longest = self.random.pick(&[5, 30, 2000]) * MILLISECOND;
        let pause = 1 + self.random.below(longest);
        let Some(end) = self.end(who) else { return };
        let (side, record) = (end.side as usize, end.record);
        let (received, taken, has_ended) = (end.received(), end.taken(), end.app.has_ended);
        if end.commits && !end.is_commit_planned && end.app.committed < end.app.delivered.len() {
            end.is_commit_planned = true;
            self.events.push(now + pause, Event::Commit(who));
        }
        if let Some(record) = record.and_then(|record| self.records.get_mut(record)) {
            record.received[side] = record.received[side].max(received);
            record.taken[side] = record.taken[side].max(taken);
            record.has_ended[side] |= has_ended;
        }
    }

    fn arrive(&mut self, connection: usize, direction: Direction) -> Result<(), String> {
        let (random, events) = (&mut self.random, &mut self.events);
        if !self.network.arrive(self.now, connection, direction, random, events) {
            return Ok(());
        }
        while let Some(who) = self.reader(connection, direction) {
            let Some(frame) = self.network.frame(connection, direction)? else { break };
            match (who, frame) {
                (None, Frame::Hello(hello)) => self.greet(connection, hello)?,
                (None, frame) => return Err(format!("the server was greeted with {frame:?}")),
                (Some(Who::Client), Frame::Welcome(welcome)) => self.welcomed(&welcome)?,
                (Some(Who::Client), Frame::Refused { refusal, .. }) => self.refused(refusal)?,
                (Some(who), frame) => self.receive(who, frame)?,
            }
        }
        if let Some(Some(who)) = self.reader(connection, direction) {
            self.note(who);
            self.pump(who)?;
        }
        // The other direction has room again.
        if let Some(Some(who)) = self.reader(connection, direction.receiver().sends()) {
            self.pump(who)?;
        }
        self.is_done = self.is_done || self.is_complete()?;
        Ok(())
    }

    /// Returns the end that receives arriving bytes, or `Some(None)` for a connection that has no
    /// session yet.
    fn reader(&mut self, connection: usize, direction: Direction) -> Option<Option<Who>> {
        if direction == Direction::ToClient {
            return (self.client.connection == Some(connection)).then_some(Some(Who::Client));
        }
        match self.network.connections[connection].accepted {
            Accepted::Greeting => Some(None),
            Accepted::Session(record) => {
                let who = Who::Server(record);
                (self.connection_of(who) == Some(connection)).then_some(Some(who))
            }
            Accepted::Closed => None,
        }
    }

    fn receive(&mut self, who: Who, frame: Frame) -> Result<(), String> {
        let now = Duration::from_micros(self.now);
        let messages = self.messages;
        if let Who::Server(record) = who {
            self.see(record)?;
        }
        let has_number = matches!(frame, Frame::Data { .. } | Frame::End { .. });
        let Some(end) = self.end(who) else { return Ok(()) };
        let next = end.app.delivered.len();
        match end.session.receive(now, frame).map_err(|error| format!("{who:?}: {error}"))? {
            Some(Received::Message { sequence, message }) => {
                let comes = end.side.other().sends();
                let known = messages.recognize(comes, &message);
                let Some((mark, place)) = known else {
                    return Err(format!("{who:?}: message {sequence} was never sent"));
                };
                if sequence != next as u64 + 1 || place != next {
                    let message = place + 1;
                    return Err(format!(
                        "{who:?}: sequence {sequence} is message {message}, expected {}",
                        next + 1
                    ));
                }
                end.app.delivered.push(mark);
                self.totals.delivered += 1;
            }
            Some(Received::End) => end.app.has_ended = true,
            Some(Received::Bye(farewell)) => return self.farewell(who, &farewell),
            Some(Received::Pong(_)) => return Err(format!("{who:?}: a pong without a ping")),
            None => self.totals.repeated += u64::from(has_number),
        }
        Ok(())
    }

    pub(super) fn remember(&self, side: Side) -> (Side, Box<Remembered>) {
        let memory = Remembered {
            client: self.client.clone(),
            ticket: self.ticket.clone(),
            table: self.table.clone(),
        };
        (side, Box::new(memory))
    }
}
