//! The positions of cuts, and other counts.

use std::fmt;

use tieline_proto::session::{Frame, Hello};

use super::direction::Direction;

/// A kind of frame. Each kind has its own length.
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

/// The frames of which each byte must have been hit by a cut: the kind, its direction, and its length
/// including the prefix (for a data frame, with one byte of the message).
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

/// The number of cuts before each byte of each kind of frame, in each direction.
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

    /// Returns the number of cuts inside a frame.
    pub fn cuts(&self) -> u64 {
        self.cuts.iter().flatten().flatten().sum()
    }

    /// Returns the positions that no cut has hit in the handshake, a data frame, an end and an
    /// acknowledgement.
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

/// Counts of the events in the runs.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The number of runs.
    pub runs: u64,
    /// Messages that were delivered.
    pub delivered: u64,
    /// Messages and ends that were sent again although they had been received. The receiver drops them,
    /// but there should be none, because each side reports its position.
    pub repeated: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Connections that resumed a session.
    pub resumed: u64,
    /// Connections that were replaced by a newer one while the server considered them alive.
    pub fenced: u64,
    /// Restarts with the memory as it was at the crash, or at a moment after which nothing was sent.
    pub with_memory: u64,
    /// Restarts with the memory as it was at an earlier moment.
    pub rolled_back: u64,
    /// Restarts without memory.
    pub without_memory: u64,
    /// Sessions that ended with an error, and whose statements about delivery were checked.
    pub ended: u64,
    /// Runs in which all messages were delivered and acknowledged.
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
