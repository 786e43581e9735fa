//! Errors of a pool.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

use tieline_proto::rounded;
use tieline_transport::TransportError;

use super::slots::Refused;
use crate::breaker::BreakerOpen;

/// Why a [`Pool`](super::Pool) could not lend a line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolError {
    /// No line was available within [`acquire_timeout`](super::PoolConfig::acquire_timeout).
    TimedOut {
        /// The time limit.
        limit: Duration,
        /// How long the longest-held line has been held, and where in the code it was taken.
        longest: Option<(Duration, &'static Location<'static>)>,
    },
    /// The limit on [waiting callers](super::PoolConfig::max_waiting) is reached.
    TooManyWaiting,
    /// Too many attempts to connect have failed.
    BreakerOpen(BreakerOpen),
    /// A new line could not be connected.
    Connect(TransportError),
    /// The pool was closed.
    Closed,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { limit, longest: None } => {
                write!(f, "no line of the pool was available within {limit:?}")
            }
            Self::TimedOut { limit, longest: Some((held_for, at)) } => write!(
                f,
                "no line of the pool was available within {limit:?}; \
                 one has been held for {:?}, taken at {at}",
                rounded(*held_for)
            ),
            Self::TooManyWaiting => f.write_str("too many callers are waiting for a line"),
            Self::BreakerOpen(_) => f.write_str("connecting a new line is not allowed at present"),
            Self::Connect(_) => f.write_str("cannot connect a new line"),
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
