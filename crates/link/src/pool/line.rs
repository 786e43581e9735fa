//! A line in a pool, and whether another may have it.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tieline_transport::{
    BoxChannel, Channel, Control, Health, Receiver, ReceiverExt, Sender, SenderExt,
};
use tokio::runtime::Handle;
use tokio::task::{coop, yield_now};

pub(super) struct Line {
    pub(super) sender: Box<dyn Sender>,
    pub(super) receiver: Box<dyn Receiver>,
    pub(super) control: Control,
}

impl Line {
    pub(super) fn new(channel: BoxChannel) -> Self {
        let control = channel.control().clone();
        let (sender, receiver) = channel.split();
        Self { sender, receiver, control }
    }

    /// Nobody has noticed an end.
    pub(super) fn is_open(&self) -> bool {
        self.control.close_reason().is_none()
    }

    /// Nothing of the last use is left: nothing unsent, nothing unread. Without a runtime that cannot be
    /// told.
    pub(super) fn is_clean(&mut self) -> bool {
        if Handle::try_current().is_err() {
            return false;
        }
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.sender.poll_flush(&mut cx), Poll::Ready(Ok(()))) && self.is_quiet()
    }

    /// Whether it is still there, and nobody has said anything since it was given back.
    pub(super) async fn check(&mut self) -> bool {
        if !self.is_quiet() {
            return false;
        }
        // What came meanwhile may not have been noticed: the runtime looks now.
        yield_now().await;
        self.is_quiet()
    }

    /// What comes in without being asked for is the answer to somebody else's question, or the end.
    fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // A task that has had its share of the runtime would see nothing.
        let received = pin!(coop::unconstrained(self.receiver.recv())).poll(&mut cx);
        received.is_pending() && !self.receiver.holds_part() && self.control.health() == Health::Up
    }

    /// Ends it, a child in stages.
    pub(super) async fn stop(mut self) {
        let mut stop = pin!(self.control.stop());
        // What does not take the end of its input must not hold up its own.
        tokio::select! {
            biased;
            _ = self.sender.close() => {}
            _ = &mut stop => return,
        }
        stop.await;
    }
}
