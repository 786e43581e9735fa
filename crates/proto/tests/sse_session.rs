//! An `EventSession` is connected to a `SessionMachine`, which is its server, over connections that
//! break at any point. The client receives each message once and in order, or is informed that messages
//! are gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tieline_proto::session::{
    Frame, Lease, Received, Secret, Sequence, SessionConfig, SessionId, SessionMachine, Welcome,
};
use tieline_proto::sse::{EventSession, Stale, Taken};

#[derive(Clone, Debug)]
enum Step {
    /// The program sends this many messages, as long as there is room.
    Send(usize),
    /// This many frames reach the adapter and become events.
    Carry(usize),
    /// This many events are written.
    Write(usize),
    /// This many of the written events reach the client.
    Arrive(usize),
    /// The client proves which events it has received.
    Prove,
    /// The client posts a message.
    Post,
    /// This many frames reach the program.
    Up(usize),
    /// The connection breaks and the client reconnects, or it reconnects before the break is noticed.
    Cut,
}

fn steps(proves: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..600_usize).prop_map(Step::Send),
        4 => (1..600_usize).prop_map(Step::Carry),
        4 => (1..600_usize).prop_map(Step::Write),
        4 => (1..600_usize).prop_map(Step::Arrive),
        if proves { 3 } else { 1 } => Just(if proves { Step::Prove } else { Step::Up(1) }),
        3 => Just(Step::Post),
        3 => (1..20_usize).prop_map(Step::Up),
        2 => Just(Step::Cut),
    ];
    prop::collection::vec(step, 1..80)
}

struct World {
    program: SessionMachine,
    lease: Option<Lease<()>>,
    /// Frames in flight, which are lost when the connection breaks.
    down: VecDeque<Frame>,
    up: VecDeque<Frame>,
    adapter: EventSession,
    /// Events that are not written yet.
    made: VecDeque<(Sequence, u64)>,
    /// Events that were written but have not reached the client.
    written: VecDeque<(Sequence, u64)>,
    /// The last event that the client received.
    last: Sequence,
    /// The messages that the client received.
    delivered: Vec<u64>,
    /// The number of messages that the program sent.
    sent: u64,
    /// The number of messages that the client posted.
    posted: u64,
    /// The number of those messages that the program received.
    received: u64,
    secrets: u8,
    /// Whether the client was informed that it has missed events.
    is_gone: bool,
}

const NOW: Duration = Duration::ZERO;

impl World {
    fn new() -> Self {
        let program = SessionMachine::new(SessionConfig::default());
        let mut world = Self {
            program,
            lease: None,
            down: VecDeque::new(),
            up: VecDeque::new(),
            adapter: EventSession::new(SessionConfig::default()),
            made: VecDeque::new(),
            written: VecDeque::new(),
            last: 0,
            delivered: Vec::new(),
            sent: 0,
            posted: 0,
            received: 0,
            secrets: 0,
            is_gone: false,
        };
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.down.clear();
        self.up.clear();
        self.made.clear();
        self.written.clear();
        let before = self.adapter.acknowledged();
        let hello = match self.adapter.hello(NOW, self.last) {
            Ok(hello) => hello,
            Err(Stale::Gone { last, oldest }) => {
                assert_eq!(last, self.last);
                assert!(last < before && oldest == before + 1, "the events were still kept");
                self.is_gone = true;
                return;
            }
            Err(other) => panic!("{other}"),
        };
        self.secrets = self.secrets.wrapping_add(1);
        let secret = Secret([self.secrets; 16]);
        let welcome: Welcome = match &mut self.lease {
            None => {
                let (lease, welcome) = Lease::new(SessionId([7; 16]), (), secret);
                self.lease = Some(lease);
                welcome
            }
            Some(lease) => {
                lease.check(&hello, &()).unwrap();
                let position = self.program.position();
                self.program.resume(hello.position).expect("the positions do not fit");
                lease.resume(&hello, &(), secret, position).unwrap()
            }
        };
        self.adapter.welcome(&welcome).unwrap();
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Send(count) => {
                for _ in 0..count {
                    if self.program.has_room() {
                        self.program.send(Bytes::from(self.sent.to_string()));
                        self.sent += 1;
                    }
                }
            }
            Step::Carry(count) => {
                while let Some(frame) = self.program.next(NOW) {
                    self.down.push_back(frame);
                }
                for _ in 0..count {
                    let Some(frame) = self.down.pop_front() else { break };
                    if let Some(Taken::Event { sequence, message }) =
                        self.adapter.receive(NOW, frame).unwrap()
                    {
                        let number = std::str::from_utf8(&message).unwrap().parse().unwrap();
                        self.made.push_back((sequence, number));
                    }
                }
            }
            Step::Write(count) => {
                let count = count.min(self.made.len());
                self.written.extend(self.made.drain(..count));
                if let Some((sequence, _)) = self.written.back() {
                    self.adapter.wrote(NOW, *sequence);
                }
            }
            Step::Arrive(count) => {
                let count = count.min(self.written.len());
                for (sequence, number) in self.written.drain(..count) {
                    assert_eq!(sequence, self.last + 1, "an event is missing");
                    self.last = sequence;
                    self.delivered.push(number);
                }
            }
            Step::Prove => self.adapter.proves(NOW, self.last).unwrap(),
            Step::Post => {
                if self.adapter.has_room() {
                    assert!(self.adapter.send(Bytes::from(self.posted.to_string())));
                    self.posted += 1;
                }
            }
            Step::Up(count) => {
                while let Some(frame) = self.adapter.next(NOW + Duration::from_secs(1)) {
                    self.up.push_back(frame);
                }
                for _ in 0..count {
                    let Some(frame) = self.up.pop_front() else { break };
                    if let Some(Received::Message { message, .. }) =
                        self.program.receive(NOW, frame).unwrap()
                    {
                        assert_eq!(
                            message,
                            self.received.to_string(),
                            "posts must arrive once and in order"
                        );
                        self.received += 1;
                    }
                }
            }
            Step::Cut => self.connect(),
        }
    }

    /// Delivers all messages that are in flight.
    fn settle(&mut self) {
        let mut before = None;
        while before != Some((self.delivered.len(), self.received)) {
            before = Some((self.delivered.len(), self.received));
            for step in [Step::Carry(9999), Step::Write(9999), Step::Arrive(9999), Step::Up(9999)] {
                self.step(&step);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_message_arrives_once_and_in_order_or_the_loss_is_reported(
        steps in steps(false),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            if world.is_gone {
                return Ok(());
            }
            prop_assert!(world.delivered.iter().copied().eq(0..world.delivered.len() as u64));
        }
        world.connect();
        if !world.is_gone {
            world.settle();
            prop_assert_eq!(world.delivered.len() as u64, world.sent);
            prop_assert_eq!(world.received, world.posted);
            // A client that proves nothing does not hold up the program.
            prop_assert!(world.program.has_room());
        }
    }

    #[test]
    fn client_that_proves_receipt_never_misses_events(steps in steps(true)) {
        let mut world = World::new();
        world.step(&Step::Prove);
        for step in &steps {
            world.step(step);
            prop_assert!(!world.is_gone);
            prop_assert!(world.delivered.iter().copied().eq(0..world.delivered.len() as u64));
        }
        world.connect();
        prop_assert!(!world.is_gone);
        world.settle();
        world.step(&Step::Prove);
        world.settle();
        prop_assert_eq!(world.delivered.len() as u64, world.sent);
        prop_assert_eq!(world.received, world.posted);
    }
}

fn carried(world: &mut World, length: usize, times: usize) {
    for _ in 0..times {
        assert!(world.program.has_room());
        world.program.send(Bytes::from(vec![b'x'; length]));
        while let Some(frame) = world.program.next(NOW) {
            if let Some(Taken::Event { sequence, .. }) = world.adapter.receive(NOW, frame).unwrap()
            {
                world.adapter.wrote(NOW, sequence);
            }
        }
        world.step(&Step::Up(9));
    }
}

/// Of the written events, the last 512 or 4 MiB are kept. The last one may be larger if the session can
/// then still accept another message.
#[test]
fn written_events_beyond_the_window_are_acknowledged_for_the_client() {
    for (length, times, acknowledged) in [
        (1, 512, 0),
        (1, 513, 1),
        (1, 2000, 1488),
        (1 << 20, 4, 0),
        (1 << 20, 5, 1),
        (3 << 20, 2, 1),
        (5 << 20, 1, 0),
        (5 << 20, 2, 1),
        (9 << 20, 1, 1),
        (9 << 20, 3, 3),
    ] {
        let mut world = World::new();
        carried(&mut world, length, times);
        assert_eq!(world.adapter.acknowledged(), acknowledged, "{times} of {length}");
        assert!(world.program.has_room(), "{times} of {length}");
    }
}

#[test]
fn resuming_from_an_unknown_or_forgotten_event_is_refused() {
    let mut adapter = EventSession::new(SessionConfig::default());
    assert_eq!(adapter.hello(NOW, 1).unwrap_err(), Stale::NeverSent);
    let mut world = World::new();
    carried(&mut world, 1, 600);
    assert_eq!(world.adapter.hello(NOW, 601).unwrap_err(), Stale::NeverSent);
    assert_eq!(world.adapter.proves(NOW, 601).unwrap_err(), Stale::NeverSent);
    assert_eq!(world.adapter.hello(NOW, 87).unwrap_err(), Stale::Gone { last: 87, oldest: 89 });
    assert!(world.adapter.hello(NOW, 88).is_ok());
}

#[test]
fn resuming_after_the_last_event_of_an_ended_session_reports_over() {
    let mut world = World::new();
    for text in ["0", "1"] {
        world.program.send(Bytes::from(text));
    }
    world.program.end();
    world.step(&Step::Send(0));
    while let Some(frame) = world.program.next(NOW) {
        let _ = world.adapter.receive(NOW, frame).unwrap();
    }
    for (last, expected) in [(3, Some(Stale::Over)), (2, Some(Stale::Over)), (1, None)] {
        assert_eq!(world.adapter.clone().hello(NOW, last).err(), expected, "{last}");
    }
    world.adapter.finish(NOW);
    world.step(&Step::Up(9));
    while let Some(frame) = world.program.next(NOW) {
        world.adapter.receive(NOW, frame).unwrap();
    }
    assert!(world.adapter.is_over() && world.program.is_settled());
    assert!(!world.adapter.send(Bytes::from("x")));
}
