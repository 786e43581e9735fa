//! Connections that deliver bytes late, in parts, or only up to some byte.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use bytes::BytesMut;
use tieline_proto::session::Frame;
use tieline_proto::{Framing, LengthPrefix, WriteBuf};

use super::coverage::{Coverage, Kind};
use super::direction::{Direction, Side};
use crate::random::Random;

/// Microseconds of virtual time.
pub(super) type Time = u64;
pub(super) const MILLISECOND: Time = 1000;
pub(super) const SECOND: Time = 1_000_000;

/// The client, or the server's end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Client,
    Server(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// The next bytes of a direction arrive.
    Arrive(usize, Direction),
    /// A side notices that its connection is lost.
    Learn(usize, Side),
    Connect,
    /// The client stops waiting for a welcome.
    Timeout(usize),
    /// An acknowledgement is due.
    Wake(Who),
    Produce(Who),
    Commit(Who),
    Fault,
    /// A process whose output was blocked is restarted with the memory that it had when it was blocked.
    Thaw(Side),
    /// A session has been without a connection since this time.
    Expire(usize, Time),
}

#[derive(Debug, Default)]
pub(super) struct Events {
    all: BinaryHeap<Reverse<(Time, u64, Event)>>,
    count: u64,
}

impl Events {
    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.count += 1;
        self.all.push(Reverse((at, self.count, event)));
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Event)> {
        self.all.pop().map(|Reverse((at, _, event))| (at, event))
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

/// The position of a cut: the frame, counted among the frames of a kind, and the byte before which the
/// direction is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) kind: Option<Kind>,
    pub(super) after: u64,
    pub(super) byte: usize,
}

#[derive(Debug)]
pub(super) struct Pipe {
    chunks: VecDeque<Vec<u8>>,
    pending: Vec<u8>,
    last_arrival: Time,
    in_flight: usize,
    cut: Option<Cut>,
    /// Whether all bytes written from now on are lost.
    pub(super) is_dead: bool,
}

/// The state of a connection at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    Greeting,
    Session(usize),
    Closed,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) pipes: [Pipe; 2],
    /// The received part of an incomplete frame, at the server and at the client.
    pub(super) received: [BytesMut; 2],
    pub(super) accepted: Accepted,
    delay: Time,
    window: usize,
}

#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) connections: Vec<Connection>,
    framing: LengthPrefix,
    out: WriteBuf,
    spare: Vec<Vec<u8>>,
    /// The side whose output is blocked.
    pub(super) frozen: Option<Side>,
}

impl Network {
    pub(super) fn open(
        &mut self,
        delay: Time,
        late: Time,
        window: usize,
        cuts: [Option<Cut>; 2],
    ) -> usize {
        let pipe = |cut, last_arrival| Pipe {
            chunks: VecDeque::new(),
            pending: Vec::new(),
            last_arrival,
            in_flight: 0,
            cut,
            is_dead: false,
        };
        let [to_server, to_client] = cuts;
        self.connections.push(Connection {
            pipes: [pipe(to_server, late), pipe(to_client, 0)],
            received: [BytesMut::new(), BytesMut::new()],
            accepted: Accepted::Greeting,
            delay,
            window,
        });
        self.connections.len() - 1
    }

    pub(super) fn has_room(&self, connection: usize, direction: Direction) -> bool {
        let it = &self.connections[connection];
        it.pipes[direction as usize].in_flight < it.window
    }

    /// Writes a frame. Returns true if the direction was cut within it.
    pub(super) fn write(
        &mut self,
        connection: usize,
        direction: Direction,
        frame: Frame,
        coverage: &mut Coverage,
    ) -> bool {
        let kind = Kind::of(&frame);
        let _ = self.framing.encode(&frame.to_bytes(), &mut self.out);
        let raw = self.out.first_chunk();
        let length = raw.len();
        let pipe = &mut self.connections[connection].pipes[direction as usize];
        pipe.is_dead |= self.frozen.is_some_and(|side| side.sends() == direction);
        let mut is_cut = false;
        pipe.in_flight += length;
        if !pipe.is_dead {
            let mut passes = length;
            if let Some(cut) = &mut pipe.cut
                && cut.kind.is_none_or(|of| of == kind)
            {
                is_cut = cut.after == 0;
                if is_cut {
                    passes = cut.byte % length;
                    coverage.note(kind, direction, passes);
                    pipe.is_dead = true;
                }
                cut.after = cut.after.saturating_sub(1);
            }
            pipe.pending.extend_from_slice(&raw[..passes]);
        }
        self.out.advance(length);
        is_cut
    }

    /// Sends the bytes that were written, as one chunk.
    pub(super) fn flush(
        &mut self,
        now: Time,
        connection: usize,
        direction: Direction,
        random: &mut Random,
        events: &mut Events,
    ) {
        let it = &mut self.connections[connection];
        let pipe = &mut it.pipes[direction as usize];
        if pipe.pending.is_empty() {
            return;
        }
        let arrival = now + it.delay + random.below(it.delay + 1);
        pipe.last_arrival = pipe.last_arrival.max(arrival);
        let mut chunk = self.spare.pop().unwrap_or_default();
        std::mem::swap(&mut chunk, &mut pipe.pending);
        pipe.chunks.push_back(chunk);
        events.push(pipe.last_arrival, Event::Arrive(connection, direction));
    }

    /// Receives the bytes that have arrived, or sometimes only a part of them. Returns false if there
    /// are none.
    pub(super) fn arrive(
        &mut self,
        now: Time,
        connection: usize,
        direction: Direction,
        random: &mut Random,
        events: &mut Events,
    ) -> bool {
        let it = &mut self.connections[connection];
        let pipe = &mut it.pipes[direction as usize];
        let Some(mut chunk) = pipe.chunks.pop_front() else { return false };
        let received = &mut it.received[direction as usize];
        let part = match chunk.len() > 1 && random.below(8) == 0 {
            true => 1 + random.below(chunk.len() as u64 - 1) as usize,
            false => chunk.len(),
        };
        received.extend_from_slice(&chunk[..part]);
        pipe.in_flight -= part;
        if part < chunk.len() {
            chunk.drain(..part);
            pipe.chunks.push_front(chunk);
            events.push(now + random.below(it.delay + 1), Event::Arrive(connection, direction));
        } else {
            chunk.clear();
            self.spare.push(chunk);
        }
        true
    }

    /// Returns the next complete frame that a side has received.
    pub(super) fn frame(
        &mut self,
        connection: usize,
        direction: Direction,
    ) -> Result<Option<Frame>, String> {
        let received = &mut self.connections[connection].received[direction as usize];
        match self.framing.decode(received) {
            Ok(None) => Ok(None),
            Ok(Some(tieline_proto::Frame::Message(frame))) => {
                Frame::decode(frame).map(Some).map_err(|error| error.to_string())
            }
            other => Err(format!("the framing is broken: {other:?}")),
        }
    }

    /// Loses the data in transit in a direction, either completely or after some byte.
    pub(super) fn lose(&mut self, connection: usize, direction: Direction, random: &mut Random) {
        let pipe = &mut self.connections[connection].pipes[direction as usize];
        pipe.is_dead = true;
        pipe.pending.clear();
        let keep = random.below(pipe.chunks.len() as u64 + 1) as usize;
        pipe.chunks.truncate(keep);
        if let Some(last) = pipe.chunks.back_mut() {
            last.truncate(1 + random.below(last.len() as u64) as usize);
        }
    }
}
