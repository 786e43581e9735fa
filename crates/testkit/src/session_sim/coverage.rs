//! Where cuts happened, and other counts.

use std::fmt;

use tieline_proto::session::{Frame, Hello};

use super::network::Direction;

/// A kind of frame, distinguished by length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    HelloNew,
    HelloAgain,
    Welcome,
    Refused,
    Data,
    End,
    Ack,
    Bye,
}

impl Kind {
    pub(super) fn of(frame: &Frame) -> Self {
        match frame {
            Frame::Hello(Hello { resumes: None, .. }) => Self::HelloNew,
            Frame::Hello(_) => Self::HelloAgain,
            Frame::Welcome(_) => Self::Welcome,
            Frame::Refused { .. } => Self::Refused,
            Frame::Data { .. } => Self::Data,
            Frame::End { .. } => Self::End,
            Frame::Bye(_) => Self::Bye,
            _ => Self::Ack,
        }
    }
}

/// The longest frame whose bytes are counted individually.
const LONGEST: usize = 80;

/// What cuts must have hit: the kind, its direction, and its length including the prefix (for a data
/// frame with one byte of message).
const OWED: [(Kind, Direction, usize); 9] = [
    (Kind::HelloNew, Direction::ToServer, 4 + 7),
    (Kind::HelloAgain, Direction::ToServer, 4 + 71),
    (Kind::Welcome, Direction::ToClient, 4 + 66),
    (Kind::Data, Direction::ToServer, 4 + 18),
    (Kind::Data, Direction::ToClient, 4 + 18),
    (Kind::End, Direction::ToServer, 4 + 17),
    (Kind::End, Direction::ToClient, 4 + 17),
    (Kind::Ack, Direction::ToServer, 4 + 9),
    (Kind::Ack, Direction::ToClient, 4 + 9),
];

/// How often a connection was cut before each byte of each kind of frame, in each direction.
#[derive(Clone, Debug)]
pub struct Coverage {
    cuts: [[[u64; LONGEST]; 8]; 2],
}

impl Default for Coverage {
    fn default() -> Self {
        Self { cuts: [[[0; LONGEST]; 8]; 2] }
    }
}

impl Coverage {
    pub(super) fn note(&mut self, kind: Kind, direction: Direction, at: usize) {
        self.cuts[direction as usize][kind as usize][at.min(LONGEST - 1)] += 1;
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        let cuts = self.cuts.iter_mut().flatten().flatten();
        cuts.zip(other.cuts.iter().flatten().flatten()).for_each(|(own, more)| *own += more);
    }

    /// Returns how many cuts were inside a frame.
    pub fn cuts(&self) -> u64 {
        self.cuts.iter().flatten().flatten().sum()
    }

    /// Returns the positions in the handshake, a data frame, an end and an acknowledgement that no cut
    /// has hit.
    pub fn missing(&self) -> Vec<String> {
        let owed = |(kind, direction, length): (Kind, Direction, usize)| {
            let cuts = &self.cuts[direction as usize][kind as usize][..length];
            let missed = cuts.iter().enumerate().filter(|(_, cuts)| **cuts == 0);
            missed
                .map(move |(at, _)| format!("{kind:?} {direction:?} before byte {at}"))
                .collect::<Vec<_>>()
        };
        OWED.into_iter().flat_map(owed).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, direction, length) in OWED {
            let cuts = &self.cuts[direction as usize][kind as usize][..length];
            let hit = cuts.iter().filter(|cuts| **cuts > 0).count();
            let (least, sum) = (cuts.iter().min().unwrap_or(&0), cuts.iter().sum::<u64>());
            writeln!(
                f,
                "  {kind:?} {direction:?}: cut before {hit} of {length} bytes, {sum} times in total, each at least {least} times"
            )?;
        }
        Ok(())
    }
}

/// Counts of what happened in the runs.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Number of runs.
    pub runs: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Messages and ends sent again although they had been received. They are dropped, but there should
    /// be none, because each side reports what it has.
    pub repeated: u64,
    /// Connections opened.
    pub connections: u64,
    /// Connections that resumed a session.
    pub resumed: u64,
    /// Connections replaced by a newer one while the server considered them alive.
    pub fenced: u64,
    /// Restarts with the memory at the crash, or at a moment after which nothing was sent.
    pub with_memory: u64,
    /// Restarts with the memory of an earlier moment.
    pub rolled_back: u64,
    /// Restarts without memory.
    pub without_memory: u64,
    /// Sessions that ended with an error whose statements were checked.
    pub ended: u64,
    /// Runs in which everything was delivered and acknowledged.
    pub complete: u64,
}

impl Totals {
    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.delivered += other.delivered;
        self.repeated += other.repeated;
        self.connections += other.connections;
        self.resumed += other.resumed;
        self.fenced += other.fenced;
        self.with_memory += other.with_memory;
        self.rolled_back += other.rolled_back;
        self.without_memory += other.without_memory;
        self.ended += other.ended;
        self.complete += other.complete;
    }
}
