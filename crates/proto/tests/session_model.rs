//! A comparison of `SessionMachine` with a simple model, which is a list of all messages and a few
//! numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tieline_proto::session::{
    Delivered, Farewell, Frame, Position, Received, Refusal, SessionConfig, SessionMachine,
    Violation,
};

/// The data of a large message. Two of them exceed the bytes that may remain unacknowledged.
static LARGE: [u8; 600_000] = [3; 600_000];

/// A step of the test. Its numbers are relative to the state of the model and are occasionally invalid.
#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    End,
    Next(usize),
    Data { offset: i64, ack: u64, length: usize },
    TheirEnd { offset: i64, ack: u64 },
    Ack(u64),
    Bye(u64),
    Ping(u64),
    Commit(u64),
    Wait(u64),
    Resume { received: u64, acknowledged: u64, sent: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || prop_oneof![20 => Just(1_i64), 1 => -3..4_i64];
    prop_oneof![
        6 => (0..40_usize).prop_map(Step::Send),
        1 => Just(Step::End),
        6 => (1..6_usize).prop_map(Step::Next),
        8 => (offset(), 0..8_u64, prop_oneof![20 => 0..40_usize, 1 => Just(LARGE.len())])
            .prop_map(|(offset, ack, length)| Step::Data { offset, ack, length }),
        1 => (offset(), 0..8_u64).prop_map(|(offset, ack)| Step::TheirEnd { offset, ack }),
        4 => (0..8_u64).prop_map(Step::Ack),
        1 => (0..8_u64).prop_map(Step::Bye),
        1 => any::<u64>().prop_map(Step::Ping),
        3 => (0..8_u64).prop_map(Step::Commit),
        3 => (0..120_u64).prop_map(Step::Wait),
        2 => (0..8_u64, 0..8_u64, -1..3_i64)
            .prop_map(|(received, acknowledged, sent)| Step::Resume { received, acknowledged, sent }),
    ]
}

/// The model of a session: all messages ever sent, and the position of each end.
struct Model {
    config: SessionConfig,
    sent: Vec<Bytes>,
    has_ended: bool,
    shown: u64,
    acknowledged: u64,
    /// The last number that was written to this connection or that the other end had already received.
    given: u64,
    received: u64,
    has_their_end: bool,
    taken: u64,
    told: u64,
    told_bytes: usize,
    received_bytes: usize,
    /// The time since which a consumed message has not been acknowledged.
    untold_since: Option<u64>,
    must_tell: bool,
    pong: Option<u64>,
    now: u64,
}

impl Model {
    fn new(config: SessionConfig) -> Self {
        Self {
            config,
            sent: Vec::new(),
            has_ended: false,
            shown: 0,
            acknowledged: 0,
            given: 0,
            received: 0,
            has_their_end: false,
            taken: 0,
            told: 0,
            told_bytes: 0,
            received_bytes: 0,
            untold_since: None,
            must_tell: false,
            pong: None,
            now: 0,
        }
    }

    fn kept(&self) -> &[Bytes] {
        self.sent.get(self.acknowledged as usize..).unwrap_or_default()
    }

    fn has_room(&self) -> bool {
        let bytes: usize = self.kept().iter().map(Bytes::len).sum();
        let few = self.kept().len() < self.config.replay_messages;
        self.kept().is_empty() || few && bytes < self.config.replay_bytes
    }

    fn end_number(&self) -> u64 {
        self.sent.len() as u64 + 1
    }

    fn ack(&mut self, number: u64) -> Result<(), Violation> {
        if number > self.shown {
            return Err(Violation::NeverSent { acknowledged: number, sent: self.shown });
        }
        self.acknowledged = self.acknowledged.max(number);
        self.given = self.given.max(number);
        Ok(())
    }

    /// Returns whether the message with the number `got` is accepted.
    fn takes(&mut self, got: u64) -> Result<bool, Violation> {
        if got <= self.received {
            self.must_tell = true;
            return Ok(false);
        }
        if self.has_their_end {
            return Err(Violation::AfterEnd);
        }
        if got > self.received + 1 {
            return Err(Violation::Gap { expected: self.received + 1, got });
        }
        self.received = got;
        Ok(true)
    }

    fn take(&mut self, number: u64) {
        if number > self.taken {
            self.taken = number;
            self.untold_since.get_or_insert(self.now);
        }
    }

    fn tell(&mut self) {
        self.told = self.taken;
        self.told_bytes = self.received_bytes;
        self.untold_since = None;
        self.must_tell = false;
    }

    fn must_acknowledge(&self) -> bool {
        let untold = self.taken - self.told;
        let is_late = self.untold_since.is_some_and(|since| self.now >= since + 100);
        let is_much = untold > 0 && self.received_bytes - self.told_bytes >= 1 << 20;
        let is_last = untold > 0 && self.has_their_end && self.taken == self.received;
        self.must_tell || is_late || untold >= 128 || is_much || is_last
    }

    /// Returns the frame that must be sent next.
    fn next(&mut self) -> Option<Frame> {
        if let Some(token) = self.pong.take() {
            return Some(Frame::Pong { token });
        }
        let acknowledged = self.taken;
        let sequence = self.given + 1;
        let frame = match self.sent.get(self.given as usize) {
            Some(message) => Frame::Data { sequence, acknowledged, message: message.clone() },
            None if self.has_ended && sequence == self.end_number() => {
                Frame::End { sequence, acknowledged }
            }
            None if self.must_acknowledge() => {
                self.tell();
                return Some(Frame::Ack { acknowledged });
            }
            None => return None,
        };
        self.tell();
        self.given = sequence;
        self.shown = self.shown.max(sequence);
        Some(frame)
    }
}

fn bytes(frame: Option<Frame>) -> Option<Bytes> {
    frame.map(Frame::to_bytes)
}

/// Returns a number near `number`, or the largest number.
fn near(number: u64, offset: i64) -> u64 {
    if offset == 3 { u64::MAX } else { number.saturating_add_signed(offset).max(1) }
}

/// Applies a step to both. Returns false if the session is over because the other end violated the
/// protocol.
fn run(session: &mut SessionMachine, model: &mut Model, step: Step) -> Result<bool, TestCaseError> {
    let now = |model: &Model| Duration::from_millis(model.now);
    // This is usually a number that was sent, and occasionally the next one.
    let ack = |model: &Model, ack: u64| {
        if ack == 7 { model.shown + 1 } else { model.shown.saturating_sub(ack) }
    };
    let (got, expected) = match step {
        Step::Send(length) => {
            prop_assert_eq!(session.has_room(), model.has_room());
            if model.has_room() {
                let message = Bytes::from(vec![model.sent.len() as u8; length]);
                let sent = session.send(message.clone());
                if !model.has_ended {
                    model.sent.push(message);
                    prop_assert_eq!(sent, Some(model.sent.len() as u64));
                } else {
                    prop_assert_eq!(sent, None);
                }
            }
            return Ok(true);
        }
        Step::End => {
            session.end();
            model.has_ended = true;
            return Ok(true);
        }
        Step::Next(count) => {
            for _ in 0..count {
                let mut twin = session.clone();
                let (got, expected) = (session.next(now(model)), model.next());
                // The encoded frame has the same bytes.
                let parts = twin
                    .next_encoded(now(model))
                    .map(|(head, message)| Bytes::from([&head[..], &message[..]].concat()));
                prop_assert_eq!(&parts, &bytes(got.clone()));
                if let (
                    Some(Frame::Data { message, .. }),
                    Some(Frame::Data { message: sent, .. }),
                ) = (&got, &expected)
                {
                    prop_assert_eq!(message.as_ptr(), sent.as_ptr(), "the message was copied");
                }
                prop_assert_eq!(bytes(got), bytes(expected));
            }
            return Ok(true);
        }
        Step::Wait(milliseconds) => {
            model.now += milliseconds;
            return Ok(true);
        }
        Step::Commit(back) => {
            let number = if back == 7 { u64::MAX } else { model.received.saturating_sub(back) };
            session.commit(now(model), number);
            let last_message = model.received - u64::from(model.has_their_end);
            let number = number.min(last_message);
            model.take(if number == last_message { model.received } else { number });
            return Ok(true);
        }
        Step::Resume { received, acknowledged, sent } => {
            let received = ack(model, received);
            let theirs = Position {
                received,
                acknowledged: if acknowledged == 7 {
                    received + 1
                } else {
                    received.saturating_sub(acknowledged)
                },
                sent: model.received.saturating_add_signed(sent),
            };
            let expected = if received > model.shown || theirs.acknowledged > received {
                Err(Refusal::NeverSent)
            } else if received < model.acknowledged || theirs.sent < model.received {
                Err(Refusal::Gap)
            } else {
                model.acknowledged = model.acknowledged.max(theirs.acknowledged);
                model.given = received;
                model.must_tell = true;
                model.pong = None;
                Ok(model.shown - received)
            };
            prop_assert_eq!(session.check(theirs).is_ok(), expected.is_ok());
            prop_assert_eq!(session.resume(theirs), expected);
            return Ok(true);
        }
        Step::Data { offset, ack: back, length } => {
            let (sequence, acknowledged) = (near(model.received, offset), ack(model, back));
            let message = Bytes::from_static(&LARGE[..length]);
            let frame = Frame::Data { sequence, acknowledged, message: message.clone() };
            let got = session.receive(now(model), frame);
            let expected = model.ack(acknowledged).and_then(|()| model.takes(sequence));
            let expected = expected.map(|is_taken| {
                is_taken.then(|| {
                    model.received_bytes += length;
                    if !model.config.commits {
                        model.take(sequence);
                    }
                    Received::Message { sequence, message }
                })
            });
            (got, expected)
        }
        Step::TheirEnd { offset, ack: back } => {
            let (sequence, acknowledged) = (near(model.received, offset), ack(model, back));
            let got = session.receive(now(model), Frame::End { sequence, acknowledged });
            let expected = model.ack(acknowledged).and_then(|()| model.takes(sequence));
            let expected = expected.map(|is_taken| {
                is_taken.then(|| {
                    model.has_their_end = true;
                    if model.taken + 1 == sequence {
                        model.take(sequence);
                    }
                    Received::End
                })
            });
            (got, expected)
        }
        Step::Ack(back) => {
            let acknowledged = ack(model, back);
            let got = session.receive(now(model), Frame::Ack { acknowledged });
            (got, model.ack(acknowledged).map(|()| None))
        }
        Step::Bye(back) => {
            let farewell = Farewell { received: ack(model, back), text: "so".to_owned() };
            let got = session.receive(now(model), Frame::Bye(farewell.clone()));
            let expected = model.ack(farewell.received).map(|()| Some(Received::Bye(farewell)));
            (got, expected)
        }
        Step::Ping(token) => {
            model.pong = Some(token);
            (session.receive(now(model), Frame::Ping { token }), Ok(None))
        }
    };
    prop_assert_eq!(&got, &expected);
    Ok(got.is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn session_behaves_like_the_model(
        commits in any::<bool>(),
        replay_messages in 0..12_usize,
        replay_bytes in prop_oneof![Just(0), Just(50), Just(8 << 20)],
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let config = SessionConfig { replay_messages, replay_bytes, commits };
        let (mut session, mut model) = (SessionMachine::new(config), Model::new(config));
        for step in steps {
            if !run(&mut session, &mut model, step)? {
                break;
            }
            let (received, acknowledged) = (model.received, model.taken);
            prop_assert_eq!(session.position(), Position { received, acknowledged, sent: model.shown });
            let sent = model.sent.len() as u64;
            let delivered = Delivered { acknowledged: model.acknowledged.min(sent), sent };
            prop_assert_eq!(session.delivered(), delivered);
            let bytes = model.kept().iter().map(Bytes::len).sum();
            prop_assert_eq!(session.kept(), (model.kept().len(), bytes));
            let is_settled = model.has_ended && model.acknowledged == model.end_number();
            prop_assert_eq!(session.is_settled(), is_settled);
            let is_over = is_settled
                && model.has_their_end
                && model.told == model.received
                && !model.must_tell;
            prop_assert_eq!(session.is_over(), is_over);
            let due = model.untold_since.map(|since| Duration::from_millis(since + 100));
            prop_assert_eq!(session.wake_at(), due);
            let owes = session.owes(Duration::from_millis(model.now));
            prop_assert_eq!(owes, model.must_acknowledge());
            let kept = model.kept().len();
            let has_room = kept == 0 || (kept < replay_messages && bytes < replay_bytes);
            prop_assert_eq!(session.has_room(), has_room);
        }
    }
}
