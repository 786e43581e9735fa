//! The message layer. Everything above it is independent of the transport and framing below.

mod boxed;
mod framed;
mod read_buffer;
mod receive;
mod send;
mod shared_sender;
mod stall;
mod write_queue;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tieline_proto::{ByteSize, Count, EncodeError, Fault};

pub use boxed::{BoxChannel, DynAcceptor, DynConnector};
pub use framed::{Framed, FramedAcceptor, FramedChannel};
pub use read_buffer::ReadBuffer;
pub use receive::FramedReceiver;
pub use send::FramedSender;
pub use shared_sender::SharedSender;
pub use stall::StallClock;
pub use write_queue::{Outgoing, WriteQueue};

use crate::close::CloseReason;
use crate::control::Control;
use crate::endpoint::Endpoint;
use crate::error::{ErrorKind, Operation, TransportError};

/// A bidirectional channel of whole messages.
///
/// It is passive: no bytes move unless the caller sends or receives. Dropping it, or both of its halves,
/// ends the line at once, together with its child process or socket; [`Control::stop`] ends it gracefully.
pub trait Channel: Send + 'static {
    /// The outgoing half.
    type Sender: Sender;
    /// The incoming half.
    type Receiver: Receiver;

    /// Returns the line's control handle, which stays valid after the channel is split.
    fn control(&self) -> &Control;

    /// Splits the channel into its two directions, which different tasks can use.
    fn split(self) -> (Self::Sender, Self::Receiver);

    /// Erases the channel's type.
    fn boxed(self) -> BoxChannel
    where
        Self: Sized,
    {
        BoxChannel::new(self)
    }
}

/// The outgoing half of a [`Channel`]. [`SenderExt`] provides async methods.
///
/// For each message call `poll_ready`, then `start_send`; call `poll_flush` when the messages must be
/// sent. To send a batch, queue several messages before one flush.
pub trait Sender: Send + 'static {
    /// Polls until the queue has room for another message.
    ///
    /// # Errors
    /// [`SendError::Closed`] once the line has ended.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>>;

    /// Queues one whole message. Call this only after `poll_ready` returned ready, because nothing else
    /// bounds the queue.
    ///
    /// # Errors
    /// [`SendError::Message`]: this message cannot be sent, and the line continues.
    /// [`SendError::Closed`]: the line has ended. In both cases, the message was not queued.
    fn start_send(&mut self, message: Bytes) -> Result<(), SendError>;

    /// Queues one whole message that was received from another line.
    ///
    /// Like [`start_send`](Self::start_send), but if the framing does not allow line breaks, JSON that
    /// spans several lines is joined into one line: line breaks between its tokens become spaces, so one
    /// message never becomes two.
    ///
    /// # Errors
    /// See [`start_send`](Self::start_send).
    fn pass_on(&mut self, message: Bytes) -> Result<(), SendError> {
        self.start_send(message)
    }

    /// Queues one message that consists of `head` followed by `message`. For protocols that prefix
    /// messages, this saves a copy.
    ///
    /// # Errors
    /// See [`start_send`](Self::start_send). A refused message is returned with its head.
    fn start_send_with_head(&mut self, head: &[u8], message: &Bytes) -> Result<(), SendError> {
        self.start_send([head, message].concat().into())
    }

    /// Polls until all queued messages have been handed to the operating system.
    ///
    /// # Errors
    /// [`SendError::Closed`] once the line has ended.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>>;

    /// Flushes and ends this direction. The other side sees the end of its input; its responses can still
    /// be received where the transport supports [half-close](crate::Capabilities::half_close).
    ///
    /// # Errors
    /// [`SendError::Closed`] if the line ended before all messages were flushed.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>>;

    /// Returns how many bytes of the sent messages have not reached the operating system: they are still
    /// queued, or were discarded when this half ended. For a session, returns how many bytes the other
    /// side has not acknowledged. Returns 0 if the number is not known, which is the default.
    fn unwritten(&self) -> usize {
        0
    }

    /// Polls until the other side has acknowledged all messages that were sent, or the line has ended.
    /// After that, [`unwritten`](Self::unwritten) returns how many bytes were not delivered. Ready at
    /// once on lines without acknowledgements, which is the default.
    fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }

    /// Polls until the other side is gone, so that nothing that is sent will be read. Never ready if
    /// this transport does not [notice that](crate::Capabilities::notices_hangup) without writing.
    ///
    /// A peer that only ended its own direction is not gone: it may be waiting for responses.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }

    /// Returns how many of the sent bytes have left this machine. Callers that wait for a response use
    /// this to distinguish a slow line from a dead one. If the numbers are not known, no bytes are
    /// reported as waiting. This may be a system call.
    fn outgoing(&self) -> Outgoing {
        Outgoing::default()
    }
}

/// The incoming half of a [`Channel`]. [`ReceiverExt`] provides async methods.
pub trait Receiver: Send + 'static {
    /// Polls for the next event. After [`Incoming::End`] it returns the same end again.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming>;

    /// Changes the maximum message size to `most` bytes, for example until the peer is authenticated.
    /// Returns the previous limit, or `None` if this receiver's limit cannot be changed.
    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        let _ = most;
        None
    }

    /// Returns true if bytes have been read but not returned yet, because their message is incomplete or
    /// `poll_recv` has not been called again. False may also mean that this is unknown.
    fn holds_part(&self) -> bool {
        false
    }

    /// Returns how many bytes of an incomplete message have been read and kept. Returns 0 if the number
    /// is not known.
    fn unfinished(&self) -> usize {
        0
    }

    /// Keeps the sender open when the other side breaks the protocol: [`Incoming::End`] is returned at
    /// once, and the close frame with the reason is sent when the sender is closed. Until then,
    /// responses to earlier messages can be sent.
    ///
    /// Without this call, a line with close frames sends one before it returns the end. Lines without
    /// close frames always leave the sender open; on these this method does nothing.
    fn keep_sender_open(&mut self) {}

    /// Returns how many bytes have arrived but have not been returned as messages: bytes that were read,
    /// and bytes that the operating system still holds ([`ReadEnd::unread`](crate::ReadEnd::unread)).
    /// They are lost if the line ends now. Returns 0 if the number is unknown, which is the default.
    /// This may be a system call.
    fn unread(&self) -> u64 {
        0
    }
}

/// An event on a channel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Incoming {
    /// One whole message.
    Message(Bytes),
    /// One message that could not be delivered; the line continues.
    Fault(Fault),
    /// On a Link, a new connection replaced one that was lost. The other side does not remember the old
    /// connection, and later messages come from a new peer.
    Reset(Box<Reset>),
    /// The line has ended; nothing follows.
    End(CloseReason),
}

/// A reconnected line.
#[derive(Clone, Debug)]
pub struct Reset {
    /// The number of the new connection; the first one was 1.
    pub epoch: u64,
    /// How many of the last messages that the lost connection accepted may not have reached the
    /// operating system. They are not sent again. Whether the messages before them were processed is not
    /// known on this side.
    pub lost: u64,
    /// Why the previous connection was lost.
    pub cause: CloseReason,
}

/// The reason why a message was not sent. The details are boxed to keep the `Result` of a successful
/// send small.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// This message cannot be sent in this framing or exceeds the limit; the line continues.
    Message(Box<Refused>),
    /// The line has ended.
    Closed(Box<CloseReason>),
    /// On a Link, the connection was lost. This many of the messages that it had accepted may not have
    /// reached the operating system; they are not sent again. Returned once per lost connection; the
    /// Link continues.
    Lost(u64),
}

/// A message that was not sent, and the reason.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The message.
    pub message: Bytes,
    /// Why it cannot be sent.
    pub error: EncodeError,
}

impl SendError {
    /// Returns the reason why the line has ended, if it has ended.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        match self {
            Self::Closed(reason) => Some(reason),
            Self::Message(_) | Self::Lost(_) => None,
        }
    }

    /// Converts the error into a [`TransportError`] with the line's endpoint.
    pub fn into_error(self, endpoint: &Endpoint) -> TransportError {
        let kind = match self {
            Self::Message(refused) => ErrorKind::Message(refused.error),
            Self::Closed(reason) => ErrorKind::Closed(*reason),
            Self::Lost(messages) => ErrorKind::Lost { messages },
        };
        TransportError::new(kind, Operation::Send).at(endpoint)
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(refused) => refused.error.fmt(f),
            Self::Closed(reason) => write!(f, "the line has ended: {reason}"),
            Self::Lost(messages) => {
                let messages = Count(*messages, "message");
                write!(f, "the connection was lost, and {messages} may not have been sent")
            }
        }
    }
}

impl std::error::Error for SendError {}

/// Async methods for every [`Sender`].
pub trait SenderExt: Sender {
    /// Waits for room, queues the message and flushes it.
    ///
    /// If the future is dropped before it completes, either the whole message or nothing is queued; a
    /// queued message is sent with the next send, flush or close.
    ///
    /// # Errors
    /// See [`Sender::start_send`].
    fn send(
        &mut self,
        message: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<(), SendError>> + Send {
        async move {
            self.feed(message).await?;
            self.flush().await
        }
    }

    /// Waits for room and queues the message, which is converted to [`Bytes`] at once. Call
    /// [`flush`](Self::flush) afterwards. Cancel-safe like [`send`](Self::send).
    ///
    /// # Errors
    /// See [`Sender::start_send`].
    fn feed(
        &mut self,
        message: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<(), SendError>> + Send {
        Feed { sender: self, message: Some(message.into()) }
    }

    /// Waits until all queued messages have been handed to the operating system. Cancel-safe.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the line has ended.
    fn flush(&mut self) -> impl Future<Output = Result<(), SendError>> + Send {
        std::future::poll_fn(|cx| self.poll_flush(cx))
    }

    /// Flushes and ends this direction ([`Sender::poll_close`]). Cancel-safe: call it again.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the line ended before all messages were flushed.
    fn close(&mut self) -> impl Future<Output = Result<(), SendError>> + Send {
        std::future::poll_fn(|cx| self.poll_close(cx))
    }

    /// Waits until the other side is gone ([`Sender::poll_gone`]). Cancel-safe.
    fn gone(&mut self) -> impl Future<Output = ()> + Send {
        std::future::poll_fn(|cx| self.poll_gone(cx))
    }
}

impl<S: Sender + ?Sized> SenderExt for S {}

/// Async methods for every [`Receiver`].
pub trait ReceiverExt: Receiver {
    /// Waits for the next event. Cancel-safe: no message is lost if the future is dropped.
    fn recv(&mut self) -> impl Future<Output = Incoming> + Send {
        Recv(self)
    }

    /// Waits for the next message and skips faults and [resets](Incoming::Reset). The
    /// [`Control`] counts faults, and both are logged, faults at debug level. On a Link,
    /// use [`recv`](Self::recv) to be notified of resets, because messages may be lost in a reset.
    /// Returns `None` when the line has ended; [`Control::close_reason`](crate::Control::close_reason)
    /// returns the reason. Cancel-safe, like [`recv`](Self::recv).
    fn next_message(&mut self) -> impl Future<Output = Option<Bytes>> + Send {
        async move {
            loop {
                match self.recv().await {
                    Incoming::Message(message) => return Some(message),
                    Incoming::Fault(fault) => tracing::debug!("skipped a message: {fault}"),
                    Incoming::Reset(reset) => {
                        tracing::warn!(
                            "the line was replaced, so messages may be lost: {}",
                            reset.cause
                        );
                    }
                    Incoming::End(_) => return None,
                }
            }
        }
    }
}

impl<R: Receiver + ?Sized> ReceiverExt for R {}

/// The future of [`SenderExt::feed`]. Like [`Recv`], it is not a `poll_fn`: that is not inlined, and
/// would cost several nanoseconds per message on an in-memory line.
struct Feed<'a, S: ?Sized> {
    sender: &'a mut S,
    message: Option<Bytes>,
}

impl<S: Sender + ?Sized> Future for Feed<'_, S> {
    type Output = Result<(), SendError>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        ready!(self.sender.poll_ready(cx))?;
        let Some(message) = self.message.take() else { return Poll::Pending };
        Poll::Ready(self.sender.start_send(message))
    }
}

/// The future of [`ReceiverExt::recv`].
struct Recv<'a, R: ?Sized>(&'a mut R);

impl<R: Receiver + ?Sized> Future for Recv<'_, R> {
    type Output = Incoming;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Incoming> {
        self.0.poll_recv(cx)
    }
}

impl Sender for Box<dyn Sender> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        (**self).poll_ready(cx)
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        (**self).start_send(message)
    }

    fn pass_on(&mut self, message: Bytes) -> Result<(), SendError> {
        (**self).pass_on(message)
    }

    fn start_send_with_head(&mut self, head: &[u8], message: &Bytes) -> Result<(), SendError> {
        (**self).start_send_with_head(head, message)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        (**self).poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        (**self).poll_close(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_gone(cx)
    }

    fn outgoing(&self) -> Outgoing {
        (**self).outgoing()
    }

    fn unwritten(&self) -> usize {
        (**self).unwritten()
    }

    fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_acknowledged(cx)
    }
}

impl Receiver for Box<dyn Receiver> {
    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        (**self).limit_to(most)
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        (**self).poll_recv(cx)
    }

    fn holds_part(&self) -> bool {
        (**self).holds_part()
    }

    fn unfinished(&self) -> usize {
        (**self).unfinished()
    }

    fn keep_sender_open(&mut self) {
        (**self).keep_sender_open();
    }

    fn unread(&self) -> u64 {
        (**self).unread()
    }
}

/// Opens channels to one endpoint.
pub trait Connector: Send + Sync + 'static {
    /// The channel type.
    type Channel: Channel;

    /// Connects. Cancel-safe: a dropped attempt leaves no process, socket or file.
    ///
    /// # Errors
    /// Each cause has its own [`ErrorKind`].
    fn connect(&self) -> impl Future<Output = Result<Self::Channel, TransportError>> + Send;
}

/// Accepts incoming channels. Dropping it stops listening.
pub trait Acceptor: Send + 'static {
    /// The channel type.
    type Channel: Channel;

    /// Waits for the next channel. Cancel-safe.
    ///
    /// # Errors
    /// After a [retryable](TransportError::is_retryable) error, the acceptor still works. Wait a little
    /// and accept again.
    fn accept(&mut self) -> impl Future<Output = Result<Self::Channel, TransportError>> + Send;

    /// Returns the endpoint on which this acceptor listens.
    fn endpoint(&self) -> &Endpoint;
}
