//! What the processes of both ends remember.

use tieline_proto::session::{Hello, Lease, Ticket};

use super::end::End;

/// The memory of a process.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    pub(super) client: End,
    pub(super) ticket: Option<Ticket>,
    pub(super) table: Vec<Option<Served>>,
}

/// The memory of a restarted process.
pub(super) enum Memory {
    /// The memory at the moment of the crash.
    Kept,
    /// The memory at an earlier moment, after which no data was sent.
    Durable(Box<Remembered>),
    /// The memory at an earlier moment.
    Earlier(Box<Remembered>),
    Lost,
}

impl Memory {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Durable(_) => "durable",
            Self::Earlier(_) => "of earlier",
            Self::Lost => "lost",
        }
    }
}

/// A session of the server.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) end: End,
    pub(super) lease: Lease<()>,
    /// The greeting that opened the current connection.
    pub(super) opened_by: Option<Hello>,
    pub(super) is_seen: bool,
    pub(super) detached: Option<u64>,
}
