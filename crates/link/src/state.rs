//! How far a line has come, for those who only watch.

use std::fmt;
use std::sync::{Arc, Weak};

use tieline_transport::CloseReason;
use tokio::sync::watch;
use tokio::time::Instant;

/// How far a line has come.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum State {
    /// A client that nobody has connected yet.
    Idle,
    /// It is being connected.
    Connecting {
        /// Which attempt it is since there was a connection, the first being 1.
        attempt: u32,
    },
    /// It is there.
    Connected {
        /// Which connection it is, the first being 1.
        epoch: u64,
    },
    /// It was lost, and the next attempt waits for its time.
    Backoff {
        /// The time. What is left of the line that was lost is ended first, which may take longer.
        until: Instant,
        /// Why it was lost, or why the last attempt has failed.
        cause: CloseReason,
    },
    /// This side is ending it: it does not come back.
    Draining,
    /// It has ended.
    Closed {
        /// This side wanted it to. The reason is then how the other side took it, or how it had been
        /// lost before.
        by_us: bool,
        /// Why, with the evidence: the exit status and the last of stderr.
        reason: CloseReason,
    },
}

impl State {
    /// Whether messages can go out now.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Whether it has ended without this side wanting it, and not well.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Closed { by_us: false, reason } if !reason.is_clean())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Connecting { attempt: 1 } => f.write_str("connecting"),
            Self::Connecting { attempt } => write!(f, "connecting, attempt {attempt}"),
            Self::Connected { epoch: 1 } => f.write_str("connected"),
            Self::Connected { epoch } => write!(f, "connected, line {epoch}"),
            Self::Backoff { cause, .. } => write!(f, "waiting to connect again: {cause}"),
            Self::Draining => f.write_str("being closed"),
            Self::Closed { by_us: true, reason } => write!(f, "disconnected by us: {reason}"),
            Self::Closed { by_us: false, reason } => write!(f, "disconnected: {reason}"),
        }
    }
}

/// Where one line tells how far it has come. Lines that come one after the other tell the same
/// watchers, each in its turn.
pub(crate) struct StatePublisher {
    states: Weak<Watched>,
    /// They come to their end with the first: what is left of a later line holds up nobody.
    _first: Option<Arc<Watched>>,
    seen: watch::Receiver<(u64, State)>,
    turn: u64,
}

type Watched = watch::Sender<(u64, State)>;

impl StatePublisher {
    /// The first, of which `state` is told.
    pub(crate) fn first(state: State) -> Self {
        let states = Arc::new(Watched::new((0, state)));
        let seen = states.subscribe();
        Self { states: Arc::downgrade(&states), _first: Some(states), seen, turn: 0 }
    }

    /// The next takes over, and says what it has come to.
    pub(crate) fn next(&self, state: State) -> Self {
        let mut turn = 0;
        if let Some(states) = self.states.upgrade() {
            states.send_modify(|last| {
                turn = last.0 + 1;
                *last = (turn, state);
            });
        }
        Self { states: self.states.clone(), _first: None, seen: self.seen.clone(), turn }
    }

    /// Tells of `state`, if it is still this one's turn.
    pub(crate) fn tell(&self, state: State) {
        let Some(states) = self.states.upgrade() else { return };
        states.send_if_modified(|last| {
            let is_due = last.0 == self.turn;
            if is_due {
                last.1 = state;
            }
            is_due
        });
    }

    pub(crate) fn present(&self) -> State {
        self.seen.borrow().1.clone()
    }
}

/// The states of a line, as they change.
///
/// Who comes late, or looks rarely, sees the present state and not those in between; everybody sees
/// the last. A clone begins with the present state.
#[derive(Debug)]
pub struct States {
    states: watch::Receiver<(u64, State)>,
    /// Nothing comes behind the first end.
    ends: bool,
    is_over: bool,
}

impl States {
    pub(crate) fn of(told: &StatePublisher, ends: bool) -> Self {
        let mut states = told.seen.clone();
        states.mark_changed();
        Self { states, ends, is_over: false }
    }

    /// The next state: first the present one, then each that came since. `None` behind the end of a
    /// Link, and behind the last state of a client that was dropped. Cancel-safe.
    pub async fn next(&mut self) -> Option<State> {
        if self.is_over {
            return None;
        }
        let changed = self.states.changed().await;
        let state = changed.ok().map(|()| self.states.borrow_and_update().1.clone());
        self.is_over = state.as_ref().is_none_or(|state| self.ends && state.is_closed());
        state
    }

    /// The next state that is as `wanted`; `None` if there is none. Cancel-safe.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&State) -> bool) -> Option<State> {
        loop {
            let state = self.next().await?;
            if wanted(&state) {
                return Some(state);
            }
        }
    }

    /// The present state.
    pub fn present(&self) -> State {
        self.states.borrow().1.clone()
    }
}

impl Clone for States {
    fn clone(&self) -> Self {
        let mut states = self.states.clone();
        states.mark_changed();
        Self { states, ends: self.ends, is_over: false }
    }
}
