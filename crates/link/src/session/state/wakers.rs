//! The tasks to wake when something changes.

use std::task::Waker;

use crate::lock::remember;

/// The event that a sender waits for.
#[derive(Clone, Copy, Default)]
pub(in crate::session) enum Waits {
    /// Room for another message.
    #[default]
    Room,
    /// All messages are written.
    Written,
    /// The other end has acknowledged all messages.
    Acknowledged,
    /// The other end has acknowledged everything, including the end of this direction.
    Settled,
}

#[derive(Default)]
pub(super) struct Wakers {
    /// The session's task.
    task: Option<Waker>,
    /// Whether the task's timer wakes it in time to send an acknowledgement.
    is_task_timed: bool,
    /// The task that sends, if it waits.
    sender: Option<Waker>,
    /// The event that this task waits for.
    sender_waits: Waits,
    /// The task that waits for the end of the session.
    gone: Option<Waker>,
    receiver: Option<Waker>,
}

impl Wakers {
    pub(super) fn task(&self) -> Option<&Waker> {
        self.task.as_ref()
    }

    pub(super) fn wake_task(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    pub(super) fn register_task(&mut self, waker: &Waker) {
        remember(&mut self.task, waker);
    }

    pub(super) fn is_task_timed(&self) -> bool {
        self.is_task_timed
    }

    pub(super) fn set_task_timed(&mut self, is_timed: bool) {
        self.is_task_timed = is_timed;
    }

    pub(super) fn has_sender(&self) -> bool {
        self.sender.is_some()
    }

    pub(super) fn sender_waits(&self) -> Waits {
        self.sender_waits
    }

    pub(super) fn register_sender(&mut self, waker: &Waker, waits: Waits) {
        self.sender_waits = waits;
        remember(&mut self.sender, waker);
    }

    pub(super) fn take_sender(&mut self) -> Option<Waker> {
        self.sender.take()
    }

    pub(super) fn register_gone(&mut self, waker: &Waker) {
        remember(&mut self.gone, waker);
    }

    pub(super) fn register_receiver(&mut self, waker: &Waker) {
        remember(&mut self.receiver, waker);
    }

    pub(super) fn take_receiver(&mut self) -> Option<Waker> {
        self.receiver.take()
    }

    /// Takes the wakers of all waiting tasks when the session is over.
    pub(super) fn take_all(&mut self) -> [Option<Waker>; 4] {
        [self.sender.take(), self.gone.take(), self.receiver.take(), self.task.take()]
    }
}
