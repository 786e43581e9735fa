//! A program that waits for its client.

use std::task::{Context, Poll};
use std::time::Duration;

use tieline_transport::{
    BoxChannel, BoxFuture, Channel, ChildExit, CloseReason, Control, Receiver, Sender,
    TransportKind,
};
use tokio::time::Instant;

use super::pace::WORKS_AFTER;
use super::{Counted, Place};
use crate::ending::stop_discarding;

/// A program that has had no client.
pub(super) struct Warm {
    sender: Box<dyn Sender>,
    receiver: Box<dyn Receiver>,
    control: Control,
    exited: BoxFuture<'static, Option<ChildExit>>,
    since: Instant,
    place: Place,
    counted: Counted,
}

impl Warm {
    pub(super) fn new(channel: BoxChannel, place: Place, counted: Counted) -> Self {
        let control = channel.control().clone();
        let (sender, receiver) = channel.split();
        let (exited, since) = (control.exited(), Instant::now());
        Self { sender, receiver, control, exited, since, place, counted }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.control.child()
    }

    /// Returns whether the program has run for a while.
    pub(super) fn works(&self) -> bool {
        self.since.elapsed() >= WORKS_AFTER
    }

    /// Polls until the program has ended. Its output is left for its client.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if let Poll::Ready(exit) = self.exited.as_mut().poll(cx) {
            let reason = exit.map(|exit| CloseReason::ChildExited(exit.into()));
            return Poll::Ready(reason.unwrap_or(CloseReason::ByPeer));
        }
        // A child may close its stdin and still have something to say.
        if self.control.kind() == TransportKind::PROCESS {
            return Poll::Pending;
        }
        self.sender.poll_gone(cx).map(|()| CloseReason::ByPeer)
    }

    /// Hands the program to its client.
    pub(super) fn into_parts(self) -> (BoxChannel, Place) {
        let Self { sender, receiver, control, place, counted, .. } = self;
        drop(counted);
        (BoxChannel::from_parts(sender, receiver, control), place)
    }

    /// Stops the program in stages.
    pub(super) async fn stop(mut self, grace: Duration) {
        let reason =
            stop_discarding(&mut self.sender, &mut self.receiver, &self.control, grace).await;
        tracing::debug!("a warm program was stopped: {reason}");
    }
}
