//! Why there is no line.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

use tieline_transport::TransportError;

use super::core::Refused;
use crate::BreakerOpen;

/// Why a [`Pool`](super::Pool) gave no line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolError {
    /// It took longer than [`acquire_timeout`](super::PoolConfig::acquire_timeout).
    TimedOut {
        /// How long it may take.
        limit: Duration,
        /// The line that is held longest: for how long, and where it was taken.
        longest: Option<(Duration, &'static Location<'static>)>,
    },
    /// As many wait as [may](super::PoolConfig::max_waiting).
    TooManyWaiting,
    /// Too many attempts to connect have failed.
    BreakerOpen(BreakerOpen),
    /// A new line could not be made.
    Connect(TransportError),
    /// The pool was closed.
    Closed,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { limit, longest: None } => write!(f, "no line within {limit:?}"),
            Self::TimedOut { limit, longest: Some((held_for, at)) } => {
                write!(f, "no line within {limit:?}; one taken at {at} is held for {held_for:?}")
            }
            Self::TooManyWaiting => f.write_str("too many wait for a line"),
            Self::BreakerOpen(_) => f.write_str("no new line is tried now"),
            Self::Connect(_) => f.write_str("no new line"),
            Self::Closed => f.write_str("the pool is closed"),
        }
    }
}

impl Error for PoolError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::BreakerOpen(open) => Some(open),
            Self::Connect(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Refused> for PoolError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Closed => Self::Closed,
            Refused::Full => Self::TooManyWaiting,
        }
    }
}
