//! The incoming half of a link, which detects losses and reconnects while it is polled for messages.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use tieline_transport::{Incoming, Receiver};

use crate::lock::lock;
use crate::shared_link::SharedLink;

/// The incoming half of a [`Link`](crate::Link).
///
/// The task that receives does the link's work: this half detects a loss and connects the next line. Once
/// it is dropped, the link no longer reconnects; messages are still sent as long as the current line lasts.
pub struct LinkReceiver(pub(crate) Arc<SharedLink>);

impl Receiver for LinkReceiver {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let mut receiving = lock(&self.0.receiving);
        loop {
            if let Poll::Ready(incoming) = receiving.poll(&self.0, cx) {
                return Poll::Ready(incoming);
            }
            if self.0.register_receiver(cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    fn holds_part(&self) -> bool {
        lock(&self.0.receiving).receiver().is_some_and(Receiver::holds_part)
    }

    fn unfinished(&self) -> usize {
        lock(&self.0.receiving).receiver().map_or(0, Receiver::unfinished)
    }

    fn unread(&self) -> u64 {
        lock(&self.0.receiving).receiver().map_or(0, Receiver::unread)
    }
}

/// The result of [`LinkReceiver::poll_many`].
pub(crate) enum Gathered {
    /// As many messages as requested.
    Many,
    /// All available messages.
    All,
    /// Something other than a message.
    Other(Incoming),
}

/// The result of [`LinkReceiver::poll_live`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Live {
    /// As many messages as requested. There may be more.
    Many,
    /// A single message. More may have arrived since.
    One,
    /// All available messages.
    All,
    /// Something other than a message is next.
    Else,
}

impl LinkReceiver {
    /// Takes available messages of the current line, at most `most`, as long as `take` returns true. It
    /// neither handles losses nor reconnects; after `Else`, call [`poll_many`](Self::poll_many).
    pub(crate) fn poll_live(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        mut take: impl FnMut(Bytes) -> bool,
    ) -> Live {
        let mut receiving = lock(&self.0.receiving);
        if self.0.is_broken.load(Ordering::Acquire) || self.0.is_hung_up.load(Ordering::Acquire) {
            return Live::Else;
        }
        let Some((receiver, has_carried)) = receiving.live() else { return Live::Else };
        for number in 0..most {
            match receiver.poll_recv(cx) {
                Poll::Ready(Incoming::Message(message)) => {
                    *has_carried = true;
                    // Usually a message arrives alone. The caller checks for more after processing it.
                    let is_alone = number == 0 && !receiver.holds_part();
                    match take(message) {
                        false => return Live::Many,
                        true if is_alone => return Live::One,
                        true => {}
                    }
                }
                // `poll_many` returns this event again.
                Poll::Ready(_) => return Live::Else,
                Poll::Pending if self.0.register_receiver(cx.waker()) => return Live::All,
                Poll::Pending => return Live::Else,
            }
        }
        Live::Many
    }

    /// Takes available messages, at most `most`, as long as `take` returns true.
    pub(crate) fn poll_many(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        mut take: impl FnMut(Bytes) -> bool,
    ) -> Gathered {
        let mut receiving = lock(&self.0.receiving);
        let mut taken = 0;
        while taken < most {
            match receiving.poll(&self.0, cx) {
                Poll::Ready(Incoming::Message(message)) => {
                    taken += 1;
                    if !take(message) {
                        break;
                    }
                }
                Poll::Ready(other) => return Gathered::Other(other),
                Poll::Pending if self.0.register_receiver(cx.waker()) => return Gathered::All,
                Poll::Pending => {}
            }
        }
        Gathered::Many
    }
}

impl Drop for LinkReceiver {
    fn drop(&mut self) {
        self.0.receiver_gone();
    }
}
