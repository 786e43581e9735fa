//! The states of a line, for observers.

use std::fmt;
use std::sync::{Arc, Weak};

use tieline_transport::CloseReason;
use tokio::sync::watch;
use tokio::time::Instant;

/// The state of a [`Link`](crate::Link), a [`Client`](crate::Client) or a [`Session`](crate::Session).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LineState {
    /// The client has not connected yet.
    Idle,
    /// A line is being connected.
    Connecting {
        /// The number of the attempt since the last connection. The first is 1.
        attempt: u32,
    },
    /// A line is connected.
    Connected {
        /// The number of the connection. The first is 1.
        epoch: u64,
    },
    /// The line was lost or could not be connected, and the next attempt is scheduled.
    Backoff {
        /// When the attempt is due. The remainder of the lost line is ended first, which may take
        /// longer.
        until: Instant,
        /// Why the line was lost, or why the last attempt failed.
        cause: CloseReason,
    },
    /// This side is ending the line, which no longer reconnects.
    Draining,
    /// The line has ended.
    Closed {
        /// Whether this side ended it. If so, the reason says how the peer reacted, or why the line had
        /// already been lost.
        by_us: bool,
        /// The reason, with the exit status and the last lines of stderr of a child.
        reason: CloseReason,
    },
}

impl LineState {
    /// Returns whether messages can be sent at present.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    /// Returns whether the line has ended.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Returns whether the line has failed: it has ended, neither by this side nor cleanly.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Closed { by_us: false, reason } if !reason.is_clean())
    }
}

impl fmt::Display for LineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Connecting { attempt: 1 } => f.write_str("connecting"),
            Self::Connecting { attempt } => write!(f, "connecting, attempt {attempt}"),
            Self::Connected { epoch: 1 } => f.write_str("connected"),
            Self::Connected { epoch } => write!(f, "connected, line {epoch}"),
            Self::Backoff { cause, .. } => write!(f, "waiting to reconnect: {cause}"),
            Self::Draining => f.write_str("closing"),
            Self::Closed { by_us: true, reason } => write!(f, "disconnected by us: {reason}"),
            Self::Closed { by_us: false, reason } => write!(f, "disconnected: {reason}"),
        }
    }
}

/// Publishes the states of one line. The consecutive lines of a client publish to the same observers, each
/// in its turn.
pub(crate) struct StatePublisher {
    states: Weak<Watched>,
    /// The states end when the first publisher is dropped, even if later lines still exist.
    _first: Option<Arc<Watched>>,
    seen: watch::Receiver<(u64, LineState)>,
    turn: u64,
}

type Watched = watch::Sender<(u64, LineState)>;

impl StatePublisher {
    /// Creates the first publisher, with an initial state.
    pub(crate) fn first(state: LineState) -> Self {
        let states = Arc::new(Watched::new((0, state)));
        let seen = states.subscribe();
        Self { states: Arc::downgrade(&states), _first: Some(states), seen, turn: 0 }
    }

    /// Creates the next publisher, which replaces this one, and publishes its initial state.
    pub(crate) fn next(&self, state: LineState) -> Self {
        let mut turn = 0;
        if let Some(states) = self.states.upgrade() {
            states.send_modify(|last| {
                turn = last.0 + 1;
                *last = (turn, state);
            });
        }
        Self { states: self.states.clone(), _first: None, seen: self.seen.clone(), turn }
    }

    /// Publishes `state`, unless this publisher was replaced.
    pub(crate) fn publish(&self, state: LineState) {
        let Some(states) = self.states.upgrade() else { return };
        states.send_if_modified(|last| {
            let is_due = last.0 == self.turn;
            if is_due {
                last.1 = state;
            }
            is_due
        });
    }

    pub(crate) fn present(&self) -> LineState {
        self.seen.borrow().1.clone()
    }
}

/// A stream of the states of a line.
///
/// An observer that is late or slow gets the current state and may miss those in between, but never the
/// last one. A clone begins with the current state.
#[derive(Debug)]
pub struct LineStates {
    states: watch::Receiver<(u64, LineState)>,
    /// The stream ends with the first `Closed`.
    ends: bool,
    is_over: bool,
}

impl LineStates {
    pub(crate) fn of(publisher: &StatePublisher, ends: bool) -> Self {
        let mut states = publisher.seen.clone();
        states.mark_changed();
        Self { states, ends, is_over: false }
    }

    /// Returns the next state: first the current one, then each change. Returns `None` after the end of a
    /// Link, and after the last state of a dropped client. Cancel-safe.
    pub async fn next(&mut self) -> Option<LineState> {
        if self.is_over {
            return None;
        }
        let changed = self.states.changed().await;
        let state = changed.ok().map(|()| self.states.borrow_and_update().1.clone());
        self.is_over = state.as_ref().is_none_or(|state| self.ends && state.is_closed());
        state
    }

    /// Waits for a state for which `wanted` returns true. Returns `None` if the states end first.
    /// Cancel-safe.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&LineState) -> bool,
    ) -> Option<LineState> {
        loop {
            let state = self.next().await?;
            if wanted(&state) {
                return Some(state);
            }
        }
    }

    /// Returns the current state.
    pub fn present(&self) -> LineState {
        self.states.borrow().1.clone()
    }
}

impl Clone for LineStates {
    fn clone(&self) -> Self {
        let mut states = self.states.clone();
        states.mark_changed();
        Self { states, ends: self.ends, is_over: false }
    }
}
