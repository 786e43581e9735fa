//! One end of a session: its state machine, its application, and a record of the events that really
//! happened.

use std::time::Duration;

use tieline_proto::session::{Delivered, SessionConfig, SessionId, SessionMachine};

use super::direction::Side;
use super::messages::{Mark, Messages};
use super::network::{MILLISECOND, Time};
use crate::random::Random;

/// The events that really happened in a session, whether or not the ends remember them.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: SessionId,
    /// The position up to which each side has received, including the end.
    pub(super) received: [u64; 2],
    /// The position up to which each side has committed.
    pub(super) taken: [u64; 2],
    /// Whether each side has received the other's end.
    pub(super) has_ended: [bool; 2],
    /// Whether each side has forgotten messages or receipts that the other has seen.
    pub(super) is_rolled_back: [bool; 2],
}

/// The application of a session, whose state is remembered and forgotten together with the state
/// machine.
#[derive(Clone, Debug)]
pub(super) struct App {
    pub(super) life: u32,
    pub(super) left: usize,
    pub(super) sent: Vec<Mark>,
    pub(super) delivered: Vec<Mark>,
    pub(super) has_ended: bool,
    pub(super) committed: usize,
    /// The longest pause between two bursts, and the size of the largest burst.
    pace: Time,
    burst: u64,
}

#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) side: Side,
    pub(super) session: SessionMachine,
    pub(super) app: App,
    pub(super) commits: bool,
    most_kept: usize,
    pub(super) record: Option<usize>,
    pub(super) connection: Option<usize>,
    pub(super) wake: Option<Time>,
    pub(super) waits_for_room: bool,
    pub(super) is_commit_planned: bool,
}

impl End {
    pub(super) fn new(side: Side, life: u32, messages: usize, random: &mut Random) -> Self {
        let commits = random.percent(25);
        let config = SessionConfig {
            replay_messages: random.pick(&[1, 3, 30, 200, 1024, 1024]),
            replay_bytes: random.pick(&[1, 100, 2000, 8 << 20, 8 << 20]),
            commits,
        };
        let (pace, burst) = random.pick(&[
            (MILLISECOND, 64),
            (5 * MILLISECOND, 64),
            (20 * MILLISECOND, 200),
            (300 * MILLISECOND, 200),
        ]);
        let app = App {
            life,
            left: messages,
            sent: Vec::new(),
            delivered: Vec::new(),
            has_ended: false,
            committed: 0,
            pace,
            burst,
        };
        Self {
            side,
            session: SessionMachine::new(config),
            app,
            commits,
            most_kept: config.replay_messages.max(1),
            record: None,
            connection: None,
            wake: None,
            waits_for_room: false,
            is_commit_planned: false,
        }
    }

    /// Sends some of the remaining messages. Returns the pause until the next messages, if it depends
    /// only on time.
    pub(super) fn produce(
        &mut self,
        messages: &Messages,
        random: &mut Random,
    ) -> Result<Option<Time>, String> {
        for _ in 0..1 + random.below(self.app.burst) {
            if self.app.left == 0 {
                self.session.end();
                return Ok(None);
            }
            if !self.session.has_room() {
                self.waits_for_room = true;
                return Ok(None);
            }
            let place = self.app.sent.len();
            let (mark, message) = messages.get(self.side.sends(), self.app.life, place);
            let sequence = self.session.send(message);
            if sequence != Some(place as u64 + 1) {
                return Err(format!("message {} was numbered {sequence:?}", place + 1));
            }
            let kept = self.session.kept().0;
            if kept > self.most_kept
                || kept as u64 + self.session.delivered().acknowledged < place as u64
            {
                return Err(format!("{kept} messages are kept of {}", place + 1));
            }
            self.app.sent.push(mark);
            self.app.left -= 1;
        }
        Ok(Some(1 + random.below(self.app.pace)))
    }

    /// Commits some of the delivered messages.
    pub(super) fn commit(&mut self, now: Time, random: &mut Random) {
        let waiting = self.app.delivered.len() - self.app.committed;
        if waiting == 0 {
            return;
        }
        self.app.committed += 1 + random.below(waiting as u64) as usize;
        self.session.commit(Duration::from_micros(now), self.app.committed as u64);
    }

    /// Returns the position up to which this end has received, including the other side's end.
    pub(super) fn received(&self) -> u64 {
        self.app.delivered.len() as u64 + u64::from(self.app.has_ended)
    }

    /// Returns the position up to which this end has committed.
    pub(super) fn taken(&self) -> u64 {
        if !self.commits || self.app.committed == self.app.delivered.len() {
            return self.received();
        }
        self.app.committed as u64
    }

    /// Checks that the received messages are a prefix of the messages that the other end sent.
    pub(super) fn agrees_with(&self, other: &Self) -> Result<(), String> {
        let (had, sent) = (&self.app.delivered, &other.app.sent);
        match had.iter().zip(sent).position(|(a, b)| a != b) {
            None if had.len() <= sent.len() => Ok(()),
            None => Err(format!("{:?} has {} of {} messages", self.side, had.len(), sent.len())),
            Some(at) => Err(format!(
                "{:?} received a message {} that differs from what was sent",
                self.side,
                at + 1
            )),
        }
    }

    /// Checks that the state machine's statements about delivery are true.
    pub(super) fn check_words(&self, records: &[Record]) -> Result<(), String> {
        let Delivered { acknowledged, sent } = self.session.delivered();
        let other = self.side.other() as usize;
        let Some(record) = self.record.and_then(|record| records.get(record)) else {
            return match acknowledged {
                0 => Ok(()),
                _ => Err(format!("{acknowledged} acknowledged without a session")),
            };
        };
        if acknowledged > record.taken[other] {
            let taken = record.taken[other];
            return Err(format!("{acknowledged} messages reported as delivered, but {taken} were"));
        }
        // The end of a direction has a number, but is not a message.
        let received = record.received[other] - u64::from(record.has_ended[other]);
        if received > sent && !record.is_rolled_back[self.side as usize] {
            return Err(format!("{sent} messages reported as sent, but {received} arrived"));
        }
        Ok(())
    }

    /// Restarts the process, which keeps only its memory.
    pub(super) fn restart(&mut self) {
        self.connection = None;
        self.wake = None;
        self.waits_for_room = false;
        self.is_commit_planned = false;
    }

    /// Records a rollback. The end has forgotten later messages, and will give their numbers to other
    /// messages.
    pub(super) fn diverge(&mut self, records: &mut [Record]) {
        self.app.life += 1;
        if let Some(record) = self.record.and_then(|record| records.get_mut(record)) {
            record.is_rolled_back[self.side as usize] = true;
        }
    }
}
