//! The two ends of a connection, and its two directions.

/// One of the two sides of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    pub(super) fn other(self) -> Self {
        if self == Self::Client { Self::Server } else { Self::Client }
    }

    pub(super) fn sends(self) -> Direction {
        if self == Self::Client { Direction::ToServer } else { Direction::ToClient }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    ToServer,
    ToClient,
}

impl Direction {
    pub(super) fn receiver(self) -> Side {
        if self == Self::ToServer { Side::Server } else { Side::Client }
    }
}
