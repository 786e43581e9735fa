//! The ends of a session's two directions, and why the session itself ends.

use std::time::Duration;

use tieline_proto::session::Farewell;
use tieline_transport::CloseReason;

#[derive(Default)]
pub(super) struct Ending {
    /// This side has ended its direction.
    is_closing: bool,
    /// This side has ended its direction by closing the sender, not by dropping it.
    is_closed: bool,
    /// This side was closed because of a failure. A farewell ends the session, which says why.
    has_failed: bool,
    /// The sender was dropped, and the task is to send the end. If the receiver is dropped too, only a
    /// farewell is sent.
    ends_soon: bool,
    /// Both halves were dropped after closing. Sent messages may still arrive until this time.
    lingers_until: Option<Duration>,
    /// The other end has ended its direction.
    has_peer_ended: bool,
    /// Nothing more is sent, because the next message cannot be delivered.
    is_undeliverable: bool,
    /// The task is to end the session for this reason. It is set where locks of the Link are held.
    doom: Option<CloseReason>,
    /// The farewell that this side has sent, or would have sent if there had been a connection.
    farewell: Option<Farewell>,
    /// The session is over for this reason.
    reason: Option<CloseReason>,
}

impl Ending {
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Records that the sender was closed. `fails`: because of a failure. The first call decides.
    pub(super) fn close(&mut self, fails: bool) {
        self.has_failed |= fails && !self.is_closing;
        self.is_closing = true;
        self.is_closed = true;
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Records that the sender was dropped.
    pub(super) fn sender_gone(&mut self) {
        self.is_closing = true;
        self.ends_soon = !self.has_failed;
    }

    /// Returns whether the task is to send the end. Returns true only once.
    pub(super) fn take_end(&mut self) -> bool {
        std::mem::take(&mut self.ends_soon)
    }

    pub(super) fn lingers_until(&self) -> Option<Duration> {
        self.lingers_until
    }

    pub(super) fn linger(&mut self, until: Duration) {
        self.lingers_until = Some(until);
    }

    pub(super) fn has_peer_ended(&self) -> bool {
        self.has_peer_ended
    }

    /// Records that the other end has ended its direction. Returns which side ended its direction first,
    /// as a close reason.
    pub(super) fn peer_ended(&mut self) -> CloseReason {
        self.has_peer_ended = true;
        self.agreed_reason()
    }

    /// Returns the close reason for an end that both sides agree on.
    pub(super) fn agreed_reason(&self) -> CloseReason {
        if self.is_closing { CloseReason::ByUs } else { CloseReason::ByPeer }
    }

    pub(super) fn is_undeliverable(&self) -> bool {
        self.is_undeliverable
    }

    pub(super) fn undeliverable(&mut self) {
        self.is_undeliverable = true;
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doom.is_some()
    }

    /// Lets the task end the session. The first reason is kept.
    pub(super) fn doom(&mut self, reason: CloseReason) {
        self.doom.get_or_insert(reason);
    }

    pub(super) fn take_doom(&mut self) -> Option<CloseReason> {
        self.doom.take()
    }

    /// Records the farewell. The first one is kept.
    pub(super) fn farewell(&mut self, farewell: &Farewell) {
        self.farewell.get_or_insert_with(|| farewell.clone());
    }

    pub(super) fn take_farewell(&mut self) -> Option<Farewell> {
        self.farewell.take()
    }

    pub(super) fn is_over(&self) -> bool {
        self.reason.is_some()
    }

    pub(super) fn reason(&self) -> Option<&CloseReason> {
        self.reason.as_ref()
    }

    pub(super) fn finish(&mut self, reason: CloseReason) {
        self.reason = Some(reason);
    }
}
