//! The outgoing half of a WebSocket.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tieline_proto::EncodeError;
use tieline_proto::websocket::Kind;
use tieline_transport::{CloseReason, Outgoing, Refused, SendError, Sender};

use super::Content;
use super::keepalive::Keepalive;
use super::reason::close_for;
use super::shared_socket::{Lifeline, SharedSocket, Side};

/// The outgoing half of a [`WebChannel`](super::WebChannel).
pub struct WebSender {
    shared: Arc<SharedSocket>,
    /// Whether this side has closed and everything is written.
    is_done: bool,
    kind: Option<Kind>,
    keepalive: Option<Keepalive>,
    _lifeline: Arc<Lifeline>,
}

impl WebSender {
    pub(super) fn new(shared: Arc<SharedSocket>, lifeline: Arc<Lifeline>) -> Self {
        let keepalive = Keepalive::of(&shared.config);
        Self { shared, is_done: false, kind: None, keepalive, _lifeline: lifeline }
    }

    /// Sets the kind of later messages, if messages are passed on
    /// [verbatim](super::WebSocketConfig::verbatim).
    ///
    /// With `None`, the default, a message is text if it is UTF-8 and the other side has sent only text
    /// so far, and binary otherwise. The sender does not know which message it answers, so after the
    /// first binary message from the other side, it sends only binary.
    pub fn set_kind(&mut self, kind: Option<Kind>) {
        self.kind = kind;
    }

    pub(super) fn shared(&self) -> &Arc<SharedSocket> {
        &self.shared
    }

    #[inline]
    fn start(&mut self, head: &[u8], message: &Bytes) -> Result<(), Rejected> {
        let mut out = self.shared.out();
        if let Some(reason) = out.closed() {
            return Err(Rejected::Closed(reason.clone()));
        }
        let kind = match self.shared.content {
            Content::Carrier => Kind::Binary,
            Content::Verbatim if self.kind.is_some() => self.kind.unwrap_or(Kind::Binary),
            Content::Verbatim if self.shared.heard_binary.load(Relaxed) => Kind::Binary,
            // The other side would ignore a blank message.
            Content::Plain(_) | Content::Texts(_) if head.is_empty() && is_blank(message) => {
                return Err(Rejected::Message(EncodeError::Empty));
            }
            _ if head.is_empty() => Kind::of(message),
            _ => Kind::of(&[head, message].concat()),
        };
        out.message(kind, (head, message)).map_err(Rejected::Message)?;
        self.shared.counts.messages_out.fetch_add(1, Relaxed);
        Ok(())
    }

    fn refused(&self, rejected: Rejected, message: impl FnOnce() -> Bytes) -> SendError {
        match rejected {
            Rejected::Closed(reason) => SendError::Closed(Box::new(reason)),
            Rejected::Message(error) => {
                self.shared.counts.faults.fetch_add(1, Relaxed);
                SendError::Message(Box::new(Refused { message: message(), error }))
            }
        }
    }

    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        everything: bool,
    ) -> Poll<Result<(), SendError>> {
        let shared = &self.shared;
        shared.poll_out(Side::Sender, cx, |out, cx| {
            if out.has_ended() {
                if let Some(reason) = out.closed() {
                    return Poll::Ready(Err(SendError::Closed(Box::new(reason.clone()))));
                }
            }
            let bound = shared.config.channel.write_queue.bytes();
            let polled = match everything {
                true => out.poll_flush(cx),
                false => out.poll_drain(cx, bound.saturating_sub(1)),
            };
            Poll::Ready(match ready!(polled) {
                Ok(()) => Ok(()),
                Err(reason) => Err(shared.broken(out, reason)),
            })
        })
    }
}

#[inline]
fn is_blank(message: &[u8]) -> bool {
    message.iter().all(u8::is_ascii_whitespace)
}

enum Rejected {
    Closed(CloseReason),
    Message(EncodeError),
}

impl Sender for WebSender {
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        {
            let out = self.shared.out();
            if let Some(reason) = out.closed() {
                return Poll::Ready(Err(SendError::Closed(Box::new(reason.clone()))));
            }
            if out.has_room() {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_drain(cx, false)
    }

    #[inline]
    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        self.start(b"", &message).map_err(|rejected| self.refused(rejected, || message))
    }

    #[inline]
    fn start_send_with_head(&mut self, head: &[u8], message: &Bytes) -> Result<(), SendError> {
        self.start(head, message)
            .map_err(|rejected| self.refused(rejected, || [head, message].concat().into()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        ready!(self.poll_drain(cx, true))?;
        if let Some(keepalive) = &mut self.keepalive {
            if keepalive.poll(&self.shared, cx)? {
                return self.poll_drain(cx, true);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if self.is_done {
            // Pings are still sent while the receiver is not reading.
            let _ = self.poll_flush(cx);
            return Poll::Ready(Ok(()));
        }
        {
            let mut out = self.shared.out();
            match self.shared.control.reason_to_report() {
                _ if out.closed().is_some() => {}
                None if self.shared.half_close => out.end_input(),
                farewell => {
                    out.close(Some(&close_for(farewell.as_ref())), CloseReason::ByUs);
                    self.shared.is_closing.store(true, Relaxed);
                }
            }
        }
        ready!(self.poll_drain(cx, true))?;
        self.is_done = true;
        // From here on, the receiver waits for the answer, for a limited time.
        self.shared.wake();
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Register before the check, because the receiver may end the line in between.
        self.shared.register(Side::Sender, cx);
        if self.shared.out().is_gone() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn outgoing(&self) -> Outgoing {
        self.shared.out().outgoing()
    }
}

impl Drop for WebSender {
    fn drop(&mut self) {
        self.shared.forget(Side::Sender);
    }
}
