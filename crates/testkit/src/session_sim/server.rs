//! The server's sessions, the permissions to resume them, and their connections.

use tieline_proto::session::{Frame, Hello, Lease, Refusal, Secret, SessionId};

use super::direction::{Direction, Side};
use super::end::{End, Record};
use super::memory::Served;
use super::network::{Accepted, Event, MILLISECOND, SECOND, Who};
use super::world::{Kind, World};

/// The time for which a session is kept without a connection.
pub(super) const GRACE: u64 = 120 * SECOND;

impl World<'_> {
    /// Handles the first frame of a connection.
    pub(super) fn greet(&mut self, connection: usize, hello: Hello) -> Result<(), String> {
        let opened = if self.faults > 0 && self.random.percent(3) {
            Err(self.random.pick(&[Refusal::Full, Refusal::Draining]))
        } else if hello.resumes.is_none() {
            Ok(self.begin())
        } else {
            self.resume(hello)
        };
        let (answer, accepted) = match opened {
            Ok((record, welcome)) => (Frame::Welcome(welcome), Accepted::Session(record)),
            Err(refusal) => {
                (Frame::Refused { refusal, text: refusal.to_string() }, Accepted::Closed)
            }
        };
        self.tell(|| format!("server: {connection} gets {answer:?}"));
        self.network.connections[connection].accepted = accepted;
        if let Accepted::Session(record) = accepted {
            let served =
                self.table[record].as_mut().ok_or("a session that was just opened is missing")?;
            served.detached = None;
            let before = served.end.connection.replace(connection);
            if let Some(before) = before {
                self.totals.fenced += 1;
                self.close(before);
            }
        }
        self.put(connection, Direction::ToClient, answer);
        Ok(())
    }

    fn begin(&mut self) -> (usize, tieline_proto::session::Welcome) {
        let id = SessionId(self.random.bytes());
        let secret = Secret(self.random.bytes());
        let (lease, welcome) = Lease::new(id, (), secret);
        let record = self.records.len();
        self.records.push(Record {
            id,
            received: [0; 2],
            taken: [0; 2],
            has_ended: [false; 2],
            is_rolled_back: [false; 2],
        });
        let mut end = End::new(Side::Server, self.server_life, self.to_client, &mut self.random);
        end.record = Some(record);
        self.table.resize(record, None);
        self.table.push(Some(Served {
            end,
            lease,
            opened_by: None,
            is_seen: true,
            detached: None,
        }));
        self.events.push(self.now, Event::Produce(Who::Server(record)));
        (record, welcome)
    }

    fn resume(
        &mut self,
        hello: Hello,
    ) -> Result<(usize, tieline_proto::session::Welcome), Refusal> {
        let Some((id, ..)) = &hello.resumes else { return Err(Refusal::Malformed) };
        let mut served = self.table.iter_mut().flatten();
        let served = served.find(|it| it.lease.session() == *id).ok_or(Refusal::Unknown)?;
        served.lease.check(&hello, &())?;
        served.end.session.resume(hello.position)?;
        let (secret, position) = (Secret(self.random.bytes()), served.end.session.position());
        let welcome = served.lease.resume(&hello, &(), secret, position)?;
        served.opened_by = Some(hello);
        served.is_seen = false;
        self.totals.resumed += 1;
        Ok((served.end.record.unwrap_or_default(), welcome))
    }

    /// Handles a frame on the connection of a session. It proves that the secret of the welcome was
    /// received, so the previous secret is no longer valid.
    pub(super) fn see(&mut self, record: usize) -> Result<(), String> {
        let Some(served) = self.table[record].as_mut() else { return Ok(()) };
        served.lease.seen();
        if !std::mem::replace(&mut served.is_seen, true)
            && let Some(hello) = &served.opened_by
            && served.lease.check(hello, &()) != Err(Refusal::Secret)
        {
            return Err("an old secret is valid although the new one was received".to_owned());
        }
        Ok(())
    }

    /// Closes a connection. The client notices this soon, or sometimes late.
    pub(super) fn close(&mut self, connection: usize) {
        self.network.connections[connection].accepted = Accepted::Closed;
        self.network.lose(connection, Direction::ToClient, &mut self.random);
        let late = if self.random.percent(20) { 5 * SECOND } else { 50 * MILLISECOND };
        let at = self.now + self.random.below(late);
        self.events.push(at, Event::Learn(connection, Side::Client));
    }

    /// Handles the loss of a connection that the server has noticed.
    pub(super) fn detach(&mut self, connection: usize) {
        if let Accepted::Session(record) = self.network.connections[connection].accepted
            && let Some(served) = self.table[record].as_mut()
            && served.end.connection == Some(connection)
        {
            served.end.connection = None;
            served.detached = Some(self.now);
            self.events.push(self.now + GRACE, Event::Expire(record, self.now));
        }
        self.network.connections[connection].accepted = Accepted::Closed;
    }

    /// Ends a session that was not resumed.
    pub(super) fn expire(&mut self, record: usize, since: u64) -> Result<(), String> {
        let Some(served) = self.table[record].as_ref() else { return Ok(()) };
        if served.detached != Some(since) {
            return Ok(());
        }
        if self.kind == Kind::Kept && self.client.record == Some(record) {
            return Err("the client's session has expired".to_owned());
        }
        self.drop_session(record)
    }

    /// Ends a session of the server and checks its statements about delivery.
    pub(super) fn drop_session(&mut self, record: usize) -> Result<(), String> {
        if let Some(served) = self.table[record].take() {
            self.totals.ended += 1;
            served.end.check_words(&self.records)?;
            if let Some(connection) = served.end.connection {
                self.close(connection);
            }
        }
        Ok(())
    }
}
