//! The incoming half of a WebSocket, before and after the other side has ended its input.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tieline_proto::ByteSize;
use tieline_proto::websocket::Kind;
use tieline_transport::{CloseReason, Incoming, Receiver};

use super::receiver::Reader;
use super::shared_socket::{Lifeline, SharedSocket, Side};

/// The incoming half of a [`WebChannel`](super::WebChannel).
///
/// After a client has ended its input by a [half-close](super::WebChannel#half-close), a task continues
/// to read until the line ends, so that pings are answered while the last messages are sent.
pub struct WebReceiver {
    /// The reader, or `None` once the task owns it.
    reader: Option<Box<Reader>>,
    /// The kind of the last message.
    kind: Kind,
    shared: Arc<SharedSocket>,
    lifeline: Arc<Lifeline>,
}

impl WebReceiver {
    pub(super) fn new(reader: Reader, shared: Arc<SharedSocket>, lifeline: Arc<Lifeline>) -> Self {
        Self { reader: Some(Box::new(reader)), kind: Kind::Text, shared, lifeline }
    }

    /// Returns the kind of the last message.
    pub fn kind(&self) -> Kind {
        self.reader.as_ref().map_or(self.kind, |reader| reader.kind())
    }

    /// Reports the end of the line once more. After this side's close frame, waits for the answer first,
    /// because closing a connection with unread bytes could discard sent messages.
    #[cold]
    fn poll_end(&self, cx: &Context<'_>) -> Poll<Incoming> {
        // Register before the check, because the task may end the line in between.
        self.shared.register(Side::Receiver, cx);
        match self.shared.out().awaits_answer() {
            true => Poll::Pending,
            false => Poll::Ready(Incoming::End(CloseReason::ByPeer)),
        }
    }
}

impl Receiver for WebReceiver {
    #[inline]
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let Some(reader) = &mut self.reader else { return self.poll_end(cx) };
        let incoming = ready!(reader.poll_recv(cx));
        if matches!(incoming, Incoming::End(_)) {
            if let Some(reader) = self.reader.take_if(|reader| reader.has_more_to_read()) {
                self.kind = reader.kind();
                self.lifeline.read_on(reader);
            }
        }
        Poll::Ready(incoming)
    }

    fn limit_to(&mut self, max: ByteSize) -> Option<ByteSize> {
        self.reader.as_mut()?.limit_to(max)
    }

    fn holds_part(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| reader.holds_part())
    }

    fn unread(&self) -> u64 {
        self.reader.as_ref().map_or(0, |reader| reader.unread())
    }

    fn keep_sender_open(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.keep_sender_open();
        }
    }
}

impl Drop for WebReceiver {
    fn drop(&mut self) {
        self.shared.forget(Side::Receiver);
    }
}
