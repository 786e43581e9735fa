//! How a line is closed, stage by stage.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tieline_transport::{BoxFuture, Channel, CloseReason, Incoming, Receiver, Sender};
use tokio::time::Sleep;

use super::Driver;
use crate::handler::Handler;

pub(super) enum Stage {
    Open,
    /// Accepts nothing new. Work in progress may finish until the timer fires.
    Closing(Pin<Box<Sleep>>),
    /// The other side has ended its direction. Its requests are still answered.
    Answering(CloseReason, Option<Pin<Box<Sleep>>>),
    /// Closes this direction, and stops the child process at the other end, if there is one.
    Stopping(Stopping),
    Ended(CloseReason),
}

pub(super) struct Stopping {
    reason: CloseReason,
    stopped: BoxFuture<'static, CloseReason>,
    ends: Ends,
    /// How long to wait for the condition in `ends`.
    grace: Option<Pin<Box<Sleep>>>,
}

/// The condition to wait for before the child process at the other end of the line is stopped.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// Nothing.
    AtOnce,
    /// All data is written, including the end of this direction.
    Flushed,
    /// The other side has ended its direction.
    ByTheirEnd,
}

impl<C: Channel, H: Handler> Driver<C, H> {
    /// Handles the end of input: no pending call can be answered any more.
    pub(super) fn no_more(&mut self, reason: CloseReason) {
        if reason.is_clean() {
            // Do this first: otherwise a call made in the meantime would wait forever.
            self.shared.take_no_calls();
        }
        self.shared.end_calls(&reason);
        if reason.is_clean() {
            self.stage = Stage::Answering(reason, None);
        } else {
            self.stop(reason);
        }
    }

    pub(super) fn stop(&mut self, reason: CloseReason) {
        self.stop_when(reason, Ends::AtOnce, None);
    }

    fn stop_when(&mut self, reason: CloseReason, ends: Ends, grace: Option<Pin<Box<Sleep>>>) {
        if matches!(self.stage, Stage::Stopping(_) | Stage::Ended(_)) {
            return;
        }
        let control = self.control.clone();
        let stopped = Box::pin(async move { control.stop().await });
        self.stage = Stage::Stopping(Stopping { reason, stopped, ends, grace });
    }

    /// Returns whether all requests and calls in both directions are finished.
    fn is_idle(&self) -> bool {
        self.inbound.is_idle() && self.shared.is_idle()
    }

    /// Advances to the next stage of closing if its condition is met. Returns true if it did.
    pub(super) fn poll_stage(&mut self, cx: &mut Context<'_>, is_flushed: bool) -> bool {
        match &mut self.stage {
            Stage::Open if self.shared.is_closing() => {
                let grace = tokio::time::sleep(self.shared.options.grace);
                self.stage = Stage::Closing(Box::pin(grace));
                true
            }
            Stage::Closing(grace) => {
                if grace.as_mut().poll(cx).is_ready() {
                    self.stop(CloseReason::ByUs);
                    return true;
                }
                if !is_flushed || !self.is_idle() {
                    return false;
                }
                let ends = match self.control.child() {
                    // Stopping a child starts with the end of its input anyway.
                    Some(_) => Ends::AtOnce,
                    // The other side may still be processing the last message.
                    None if self.shared.may_be_unread() => Ends::ByTheirEnd,
                    None => Ends::Flushed,
                };
                if let Stage::Closing(grace) = std::mem::replace(&mut self.stage, Stage::Open) {
                    self.stop_when(CloseReason::ByUs, ends, Some(grace));
                }
                true
            }
            Stage::Answering(reason, grace) => {
                let reason = reason.clone();
                // Handlers may send notifications while they run. After the last response nothing new
                // is accepted; otherwise an endless stream of notifications would hold the line open.
                if self.inbound.is_idle() && !self.shared.is_closing() {
                    self.shared.begin_close();
                }
                // Handlers may run as long as the other side waits, unless this side asked to close.
                if self.shared.is_close_requested() && grace.is_none() {
                    *grace = Some(Box::pin(tokio::time::sleep(self.shared.options.grace)));
                }
                let is_over =
                    grace.as_mut().is_some_and(|grace| grace.as_mut().poll(cx).is_ready());
                let is_gone = is_over || self.sender.poll_gone(cx).is_ready();
                if is_gone || (is_flushed && self.is_idle()) {
                    self.stop(reason);
                    return true;
                }
                false
            }
            Stage::Stopping(Stopping { reason, stopped, ends, grace }) => {
                let reason = reason.clone();
                // A child is stopped even if it does not read the end of its input.
                let is_closed = self.sender.poll_close(cx).is_ready();
                // Read and discard, so that the other side cannot block on writing.
                let has_ended = loop {
                    match self.receiver.poll_recv(cx) {
                        Poll::Ready(Incoming::End(_)) => break true,
                        Poll::Ready(_) => {}
                        Poll::Pending => break false,
                    }
                };
                let mut is_late =
                    || grace.as_mut().is_none_or(|it| it.as_mut().poll(cx).is_ready());
                let is_due = match ends {
                    Ends::AtOnce => true,
                    Ends::Flushed => is_closed || has_ended || is_late(),
                    Ends::ByTheirEnd => has_ended || is_late(),
                };
                if !is_due {
                    return false;
                }
                if stopped.as_mut().poll(cx).is_pending() {
                    return false;
                }
                let reason = match (&reason, self.control.close_reason()) {
                    (CloseReason::Io(_) | CloseReason::StdinClosed, Some(known)) => known,
                    _ => reason,
                };
                self.stage = Stage::Ended(reason.clone());
                self.shared.end(reason);
                true
            }
            _ => false,
        }
    }
}
