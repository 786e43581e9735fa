//! A line of a pool, and the checks before it is reused.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tieline_transport::{
    BoxChannel, Channel, Control, Health, Receiver, ReceiverExt, Sender, SenderExt,
};
use tokio::runtime::Handle;
use tokio::task::{coop, yield_now};

pub(super) struct PooledLine {
    pub(super) sender: Box<dyn Sender>,
    pub(super) receiver: Box<dyn Receiver>,
    pub(super) control: Control,
}

impl PooledLine {
    pub(super) fn new(channel: BoxChannel) -> Self {
        let control = channel.control().clone();
        let (sender, receiver) = channel.split();
        Self { sender, receiver, control }
    }

    /// Returns false once the end of the line has been detected.
    pub(super) fn is_open(&self) -> bool {
        self.control.close_reason().is_none()
    }

    /// Returns whether the last use has left nothing unsent or unread. Returns false without a runtime,
    /// because this cannot be checked then.
    pub(super) fn is_clean(&mut self) -> bool {
        if Handle::try_current().is_err() {
            return false;
        }
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.sender.poll_flush(&mut cx), Poll::Ready(Ok(()))) && self.is_quiet()
    }

    /// Checks that the line is still connected, and that nothing was received since it was given back.
    pub(super) async fn check(&mut self) -> bool {
        if !self.is_quiet() {
            return false;
        }
        // Let the runtime poll for events that it has not noticed yet.
        yield_now().await;
        self.is_quiet()
    }

    /// Returns whether nothing was received. Anything received now is a late response to an earlier
    /// caller, or the end of the line.
    fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // The poll is unconstrained, because a task that has used up its cooperative budget would always
        // get `Pending`.
        let received = pin!(coop::unconstrained(self.receiver.recv())).poll(&mut cx);
        received.is_pending() && !self.receiver.holds_part() && self.control.health() == Health::Up
    }

    /// Ends the line, and its child process in stages.
    pub(super) async fn stop(mut self) {
        let mut stop = pin!(self.control.stop());
        // If closing the input does not complete, the line is stopped anyway.
        tokio::select! {
            biased;
            _ = self.sender.close() => {}
            _ = &mut stop => return,
        }
        stop.await;
    }
}
