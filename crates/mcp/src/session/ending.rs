//! Why a session has ended, and what requests without a response are told.

use crate::Refusal;

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client has sent DELETE.
    Deleted,
    /// The program has ended, or has refused to initialize.
    Program,
    /// The session was idle for too long.
    Idle,
    /// It was idle, and its place was needed for a new session.
    Evicted,
    /// Too much memory was in use.
    Memory,
    /// Only the stream has ended: another connection resumed it.
    Resumed,
}

impl Ending {
    /// Returns the response to a request that had none when the session ended.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Deleted => Refusal::new(
                404,
                "the session was ended by a DELETE before the program responded; initialize a new one",
            ),
            Self::Program => Refusal::new(502, "the program ended without a response"),
            Self::Idle | Self::Evicted => Refusal::unknown_session(),
            Self::Memory => Refusal::new(
                503,
                "the session has ended, because too much memory is in use; initialize a new one",
            ),
            Self::Resumed => Refusal::new(
                409,
                "the response goes to another connection, which resumed its stream",
            ),
        }
    }
}
