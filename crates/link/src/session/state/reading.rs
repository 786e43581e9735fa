//! The reader of the connection: the session's task, or the consumer while it is being polled.

use std::time::Duration;

/// How long the consumer reads the connection itself before the task takes over again. If the consumer
/// stops polling, a ping, an acknowledgement or the loss of the connection may have to wait this long.
const LENT_FOR: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Reading {
    /// The time until which the consumer reads the connection itself.
    lent_until: Option<Duration>,
    /// Frames that still arrive over the current connection are ignored; the next connection repeats them.
    is_fenced: bool,
    /// The task has stopped reading until the consumer has received something.
    is_held_up: bool,
}

impl Reading {
    pub(super) fn is_lent(&self) -> bool {
        self.lent_until.is_some()
    }

    pub(super) fn lent_until(&self) -> Option<Duration> {
        self.lent_until
    }

    pub(super) fn lend(&mut self, now: Duration) {
        self.lent_until = Some(now.saturating_add(LENT_FOR));
    }

    /// Lets the task read again. Returns whether the consumer was reading.
    pub(super) fn take_back(&mut self) -> bool {
        self.lent_until.take().is_some()
    }

    /// Returns whether the task is to read now. If so, the consumer no longer reads.
    pub(super) fn is_due(&mut self, now: Duration, is_broken: bool) -> bool {
        if self.lent_until.is_some_and(|until| now < until) && !self.is_fenced && !is_broken {
            return false;
        }
        self.lent_until = None;
        true
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.is_fenced
    }

    pub(super) fn fence(&mut self) {
        self.is_fenced = true;
    }

    /// Begins to read another connection.
    pub(super) fn unfence(&mut self) {
        self.is_fenced = false;
    }

    pub(super) fn is_held_up(&self) -> bool {
        self.is_held_up
    }

    pub(super) fn hold_up(&mut self, is_held_up: bool) {
        self.is_held_up = is_held_up;
    }
}
