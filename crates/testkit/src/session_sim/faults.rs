//! The failures that a run injects.

use tieline_proto::session::{Farewell, Frame};

use super::coverage;
use super::direction::{Direction, Side};
use super::end::End;
use super::memory::Memory;
use super::network::{Accepted, Cut, Event, MILLISECOND, SECOND, Who};
use super::world::{Kind, World};

impl World<'_> {
    /// Plans the cuts of the next connection.
    pub(super) fn plan_cuts(&mut self) -> [Option<Cut>; 2] {
        [Direction::ToServer, Direction::ToClient].map(|direction| {
            if self.faults == 0 || self.random.percent(35) {
                return None;
            }
            self.faults -= 1;
            let random = &mut self.random;
            let few = random.below(4);
            let most = random.pick(&[3, 30, 600]);
            let many = random.below(most);
            let (kind, after) = match random.below(12) {
                0..3 if direction == Direction::ToServer => match self.client.record {
                    None => (Some(coverage::Kind::HelloNew), 0),
                    Some(_) => (Some(coverage::Kind::HelloAgain), 0),
                },
                0..3 => (Some(coverage::Kind::Welcome), 0),
                3..5 => (Some(coverage::Kind::Ack), few),
                5..7 => (Some(coverage::Kind::Data), many),
                7..10 => (Some(coverage::Kind::End), 0),
                _ => (None, many),
            };
            // Of a data frame, only the first bytes are of interest, because all bytes of the message
            // are equivalent.
            let most = if kind == Some(coverage::Kind::Data) { 24 } else { 1 << 20 };
            Some(Cut { kind, after, byte: random.below(most) as usize })
        })
    }

    /// Handles the cut of a direction. The other direction may continue, and both ends notice the cut at
    /// some time.
    pub(super) fn cut(&mut self, connection: usize, direction: Direction) {
        self.tell(|| format!("{connection} is cut {direction:?}"));
        if self.random.percent(60) {
            let other = direction.receiver().sends();
            if self.random.percent(50) {
                self.network.lose(connection, other, &mut self.random);
            } else {
                self.network.connections[connection].pipes[other as usize].is_dead = true;
            }
        }
        self.learn_some_time(connection, Side::Client);
        self.learn_some_time(connection, Side::Server);
    }

    /// Plans when a side notices a cut. The client notices every cut at some time. The server may
    /// consider a connection alive until there is a newer one.
    fn learn_some_time(&mut self, connection: usize, side: Side) {
        let latest = match self.random.below(4) {
            0 if side == Side::Server => return,
            0 => 10 * SECOND,
            1 => SECOND,
            _ => 30 * MILLISECOND,
        };
        let at = self.now + self.random.below(latest);
        self.events.push(at, Event::Learn(connection, side));
    }

    /// Abandons the client's connection. Data in transit still arrives.
    pub(super) fn abandon(&mut self) {
        if let Some(connection) = self.client.connection.take() {
            self.is_open = false;
            self.tell(|| format!("client: gives up {connection}"));
            self.learn_some_time(connection, Side::Server);
            let pause = self.random.pick(&[0, 10 * MILLISECOND, 500 * MILLISECOND]);
            self.events.push(self.now + self.random.below(pause + 1), Event::Connect);
        }
    }

    /// Causes a failure at a moment in time, rather than between two bytes.
    pub(super) fn fault(&mut self) -> Result<(), String> {
        if self.faults == 0 {
            return Ok(());
        }
        self.faults -= 1;
        let pause = self.random.pick(&[5, 50, 400, 4000]) * MILLISECOND;
        self.events.push(self.now + self.random.below(pause), Event::Fault);
        self.check_words()?;
        let side = if self.random.percent(50) { Side::Client } else { Side::Server };
        // This often happens while the connection of the snapshot is alive, so that its secret is still
        // valid.
        if self.random.percent(50)
            && let Some((side, memory)) = self.snapshot.take()
        {
            return self.crash(side, Memory::Earlier(memory));
        }
        match self.random.below(8) {
            0 | 1 => self.abandon(),
            2 => {
                if let Some(connection) = self.client.connection {
                    for direction in [Direction::ToServer, Direction::ToClient] {
                        self.network.lose(connection, direction, &mut self.random);
                    }
                    self.learn_some_time(connection, Side::Client);
                    self.learn_some_time(connection, Side::Server);
                }
            }
            3 => self.crash(side, Memory::Kept)?,
            4 => self.freeze(side),
            _ => match self.kind {
                Kind::Kept => self.abandon(),
                Kind::RolledBack => self.snapshot = Some(self.remember(side)),
                Kind::Lost if self.random.percent(30) => self.say_bye(side)?,
                Kind::Lost => self.crash(side, Memory::Lost)?,
            },
        }
        Ok(())
    }

    /// Blocks all output of a process. It is later restarted with the memory of this moment, like a
    /// process that persists its state before it sends data.
    fn freeze(&mut self, side: Side) {
        if self.network.frozen.is_none() {
            self.tell(|| format!("{side:?}: output is blocked"));
            self.network.frozen = Some(side);
            self.thawed = Some(self.remember(side));
            let at = self.now + self.random.below(200 * MILLISECOND);
            self.events.push(at, Event::Thaw(side));
        }
    }

    pub(super) fn thaw(&mut self, side: Side) -> Result<(), String> {
        self.network.frozen = None;
        match self.thawed.take() {
            Some((of, memory)) if of == side => self.crash(side, Memory::Durable(memory)),
            _ => Ok(()),
        }
    }

    /// Ends a process with all its connections, and restarts it.
    fn crash(&mut self, side: Side, memory: Memory) -> Result<(), String> {
        self.tell(|| format!("{side:?}: restarted, memory {}", memory.name()));
        if self.network.frozen == Some(side) && !matches!(memory, Memory::Durable(_)) {
            // State that the process reached while its output was blocked was not persisted either.
            return Ok(());
        }
        for connection in 0..self.network.connections.len() {
            let is_its = match side {
                Side::Client => self.client.connection == Some(connection),
                Side::Server => self.network.connections[connection].accepted != Accepted::Closed,
            };
            if is_its {
                if self.random.percent(50) {
                    self.network.lose(connection, side.sends(), &mut self.random);
                }
                self.network.connections[connection].pipes[side.sends() as usize].is_dead = true;
                if side == Side::Server {
                    self.network.connections[connection].accepted = Accepted::Closed;
                }
                self.learn_some_time(connection, side.other());
            }
        }
        match &memory {
            Memory::Kept | Memory::Durable(_) => self.totals.with_memory += 1,
            Memory::Earlier(_) => self.totals.rolled_back += 1,
            Memory::Lost => self.totals.without_memory += 1,
        }
        match side {
            Side::Client => self.restart_client(memory)?,
            Side::Server => self.restart_server(memory),
        }
        self.wake_all(side);
        Ok(())
    }

    fn restart_client(&mut self, memory: Memory) -> Result<(), String> {
        match memory {
            Memory::Kept => self.client = self.client.clone(),
            Memory::Durable(memory) => (self.client, self.ticket) = (memory.client, memory.ticket),
            Memory::Earlier(memory) => {
                // The client may have sent messages after the snapshot that it does not remember now.
                let record = self.client.record;
                (self.client, self.ticket) = (memory.client, memory.ticket);
                if self.client.record == record {
                    self.client.diverge(&mut self.records);
                }
            }
            Memory::Lost => self.end_client()?,
        }
        self.client.restart();
        self.is_open = false;
        self.events.push(self.now + self.random.below(50 * MILLISECOND), Event::Connect);
        Ok(())
    }

    fn restart_server(&mut self, memory: Memory) {
        match memory {
            Memory::Kept => self.table = self.table.clone(),
            Memory::Durable(memory) => self.table = memory.table,
            Memory::Earlier(memory) => {
                self.table = memory.table;
                for served in self.table.iter_mut().flatten() {
                    served.end.diverge(&mut self.records);
                }
            }
            Memory::Lost => {
                self.server_life += 1;
                self.table.clear();
            }
        }
        self.table.resize(self.records.len(), None);
        for (record, served) in self.table.iter_mut().enumerate() {
            if let Some(served) = served {
                served.end.restart();
                served.detached = Some(self.now);
                self.events.push(self.now + super::server::GRACE, Event::Expire(record, self.now));
            }
        }
    }

    fn wake_all(&mut self, side: Side) {
        let all = match side {
            Side::Client => vec![Who::Client],
            Side::Server => (0..self.table.len()).map(Who::Server).collect(),
        };
        for who in all {
            self.events.push(self.now, Event::Produce(who));
            self.events.push(self.now, Event::Commit(who));
        }
    }

    /// Ends the client's session, checks its statements, and starts the next session.
    pub(super) fn end_client(&mut self) -> Result<(), String> {
        self.totals.ended += 1;
        self.client.check_words(&self.records)?;
        let life = self.client.app.life + 1;
        self.client = End::new(Side::Client, life, self.to_server, &mut self.random);
        self.ticket = None;
        self.is_open = false;
        self.events.push(self.now, Event::Produce(Who::Client));
        Ok(())
    }

    /// Sends a farewell and forgets the session.
    fn say_bye(&mut self, side: Side) -> Result<(), String> {
        let who = match (side, self.client.record) {
            (Side::Client, Some(_)) => Who::Client,
            (Side::Server, Some(record)) => Who::Server(record),
            _ => return Ok(()),
        };
        let Some(end) = self.end(who) else { return Ok(()) };
        let bye =
            Frame::Bye(Farewell { received: end.session.position().acknowledged, text: "".into() });
        if let Some(connection) = self.connection_of(who) {
            self.put(connection, side.sends(), bye);
        }
        match who {
            Who::Client => {
                self.abandon();
                self.end_client()
            }
            Who::Server(record) => {
                // Unlike with `close`, data that was written before still arrives.
                if let Some(served) = self.table[record].take() {
                    self.totals.ended += 1;
                    served.end.check_words(&self.records)?;
                    if let Some(connection) = served.end.connection {
                        self.network.connections[connection].accepted = Accepted::Closed;
                        self.learn_some_time(connection, Side::Client);
                    }
                }
                Ok(())
            }
        }
    }

    /// Handles the other end's farewell.
    pub(super) fn farewell(&mut self, who: Who, farewell: &Farewell) -> Result<(), String> {
        let Some(end) = self.end(who) else { return Ok(()) };
        let other = end.side.other() as usize;
        if let Some(record) = end.record.and_then(|record| self.records.get(record))
            && farewell.received > record.received[other]
        {
            let received = record.received[other];
            return Err(format!(
                "{} messages reported as received, but {received} were",
                farewell.received
            ));
        }
        match who {
            Who::Client => {
                self.abandon();
                self.end_client()
            }
            Who::Server(record) => self.drop_session(record),
        }
    }
}
