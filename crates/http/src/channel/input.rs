//! The incoming half, also behind the end of the other side's input.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tieline_proto::ByteSize;
use tieline_proto::websocket::Kind;
use tieline_transport::{CloseReason, Incoming, Receiver};

use super::receiver::Reader;
use super::shared::{Lifeline, Shared, Side};

/// The incoming half of a [`WebChannel`](super::WebChannel).
///
/// Where a client has ended its input by a [half-close](super::WebChannel#half-close), a task reads on until
/// the line ends, so that pings are answered while the last messages are sent.
pub struct WebReceiver {
    /// `None` once the task has it.
    reader: Option<Box<Reader>>,
    /// What the last message was said to hold.
    kind: Kind,
    shared: Arc<Shared>,
    lifeline: Arc<Lifeline>,
}

impl WebReceiver {
    pub(super) fn new(reader: Reader, shared: Arc<Shared>, lifeline: Arc<Lifeline>) -> Self {
        Self { reader: Some(Box::new(reader)), kind: Kind::Text, shared, lifeline }
    }

    /// What the last message was said to hold.
    pub fn kind(&self) -> Kind {
        self.reader.as_ref().map_or(self.kind, |reader| reader.kind())
    }

    /// The end again: behind the close frame of this side once the other one has answered it, as what is
    /// unread when a connection is closed may cost the other side what was sent to it.
    #[cold]
    fn poll_end(&self, cx: &Context<'_>) -> Poll<Incoming> {
        // Whoever ends the line wakes us, and may have done so just now.
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
        if matches!(incoming, Incoming::End(_))
            && let Some(reader) = self.reader.take_if(|reader| reader.has_more_to_read())
        {
            self.kind = reader.kind();
            self.lifeline.read_on(reader);
        }
        Poll::Ready(incoming)
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        self.reader.as_mut()?.limit_to(most)
    }

    fn holds_part(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| reader.holds_part())
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
