//! Level two: messages. Everything from here up knows nothing of what is below.

mod boxed;
mod framed;
mod read_buffer;
mod receive;
mod send;
mod shared;
mod stall;
mod write_queue;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tieline_proto::{ByteSize, EncodeError, Fault};

pub use boxed::{BoxChannel, DynAcceptor, DynConnector};
pub use framed::{Framed, FramedAcceptor, FramedChannel};
pub use read_buffer::ReadBuffer;
pub use receive::FramedReceiver;
pub use send::FramedSender;
pub use shared::SharedSender;
pub use stall::StallClock;
pub use write_queue::{Outgoing, WriteQueue};

use crate::{CloseReason, Control, Endpoint, ErrorKind, Operation, TransportError};

/// A duplex of whole messages.
///
/// It is passive: nothing moves unless somebody sends or receives. Dropping it, or both of its
/// halves, ends the line and what stands behind it at once;
/// [`Control::stop`] ends it politely.
pub trait Channel: Send + 'static {
    /// Where messages go out.
    type Sender: Sender;
    /// Where messages come in.
    type Receiver: Receiver;

    /// The handle that outlives the split.
    fn control(&self) -> &Control;

    /// The two directions, each to be used from another task.
    fn split(self) -> (Self::Sender, Self::Receiver);

    /// The same channel, with its type forgotten.
    fn boxed(self) -> BoxChannel
    where
        Self: Sized,
    {
        BoxChannel::new(self)
    }
}

/// The outgoing half of a [`Channel`]. [`SenderExt`] has the methods to await.
///
/// One message after another: `poll_ready`, then `start_send`, and `poll_flush` when it matters
/// that they leave. Sending in batches is sending several before one flush.
pub trait Sender: Send + 'static {
    /// Ready when the queue has room for another message.
    ///
    /// # Errors
    /// [`SendError::Closed`] once the line has ended.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>>;

    /// Queues one whole message. Call it after `poll_ready` said yes: the queue has no other
    /// bound.
    ///
    /// # Errors
    /// [`SendError::Message`]: this message cannot be sent, and the line goes on.
    /// [`SendError::Closed`]: the line has ended. Nothing was queued in either case.
    fn start_send(&mut self, message: Bytes) -> Result<(), SendError>;

    /// Queues one whole message that came from another line.
    ///
    /// As [`start_send`](Self::start_send), but JSON that is spread over several lines is put on one
    /// where this line carries nothing else: raw line breaks between its tokens become spaces, so that
    /// one message never becomes two.
    ///
    /// # Errors
    /// As [`start_send`](Self::start_send).
    fn pass_on(&mut self, message: Bytes) -> Result<(), SendError> {
        self.start_send(message)
    }

    /// The same for a message that is `head` and behind it `message`: where a protocol puts something
    /// in front, this saves a copy.
    ///
    /// # Errors
    /// As [`start_send`](Self::start_send). What is given back is the whole.
    fn start_send_behind(&mut self, head: &[u8], message: &Bytes) -> Result<(), SendError> {
        self.start_send([head, message].concat().into())
    }

    /// Ready when everything queued was handed to the operating system.
    ///
    /// # Errors
    /// [`SendError::Closed`] once the line has ended.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>>;

    /// Flushes and ends this direction: the far side sees the end of its input, and its answers
    /// still arrive where the transport has a
    /// [half-close](crate::Capabilities::half_close).
    ///
    /// # Errors
    /// [`SendError::Closed`] if the line ended before everything was flushed.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>>;

    /// Returns how many bytes of what was sent never reached the operating system: those that wait, or that
    /// were given up when this half ended. 0, the default, where that is not known.
    fn unwritten(&self) -> usize {
        0
    }

    /// Ready when the far side is gone altogether, so that nothing sent will be read; never where
    /// that is not [noticed](crate::Capabilities::notices_hangup) without writing.
    ///
    /// A far side that only ended its own direction is not gone: it waits for answers.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }

    /// Returns how far the bytes have come that were sent: for those who wait for an answer to them, and must
    /// not take a slow line for a dead one. Nothing waits where it is not known. This may be a system call.
    fn outgoing(&self) -> Outgoing {
        Outgoing::default()
    }
}

/// The incoming half of a [`Channel`]. [`ReceiverExt`] has the method to await.
pub trait Receiver: Send + 'static {
    /// The next thing that comes in. After [`Incoming::End`] it gives the same end again.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming>;

    /// From here on takes messages of at most `most` bytes, as if that were the line's limit: for as long
    /// as it is not known who speaks. Gives the limit before; `None`: it has none that could be changed,
    /// and nothing is done.
    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        let _ = most;
        None
    }

    /// Whether something has been read that was not given out, because it is not a whole message yet or
    /// nobody has asked. No is no promise: not every line knows.
    fn holds_part(&self) -> bool {
        false
    }

    /// Returns how many bytes of a message have been read whose end has not come, as far as they are kept;
    /// 0 where that is not known.
    fn unfinished(&self) -> usize {
        0
    }

    /// Keeps the sender open when the other side breaks the protocol: [`Incoming::End`] is returned at once, and
    /// the close frame with the reason leaves when the sender is closed. Until then answers to earlier messages
    /// can be sent.
    ///
    /// Without this call a line that has close frames sends one before it returns the end. Lines without them
    /// always leave the sender open, and do nothing here.
    fn keep_sender_open(&mut self) {}
}

/// What comes in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Incoming {
    /// One whole message.
    Message(Bytes),
    /// One message that could not be delivered; the line goes on.
    Fault(Fault),
    /// Behind a Link, another line has taken the place of the one that was lost. The other side
    /// remembers nothing: what comes from here on comes from a new one.
    Reset(Box<Reset>),
    /// The line has ended, and nothing more will come.
    End(CloseReason),
}

/// A line that came back.
#[derive(Clone, Debug)]
pub struct Reset {
    /// Which line it is now; the first was 1.
    pub epoch: u64,
    /// Of the messages that were accepted for the line that was lost, so many, the last, are not known
    /// to have been handed to the operating system. They are not sent again. What became of those
    /// before them only the other side could tell.
    pub lost: u64,
    /// Why the line before was lost.
    pub cause: CloseReason,
}

/// Why a message was not sent. The details are boxed: what a success is returned in stays small.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// This message cannot be sent in this framing or within the limit; the line goes on.
    Message(Box<Refused>),
    /// The line has ended.
    Closed(Box<CloseReason>),
    /// Behind a Link, the line was lost under messages that had been accepted: so many are not known to
    /// have been handed to the operating system, and are not sent again. It is said once for each loss
    /// of a line, and the Link goes on.
    Lost(u64),
}

/// A message that was not sent, and why.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The message.
    pub message: Bytes,
    /// Why it cannot be sent.
    pub error: EncodeError,
}

impl SendError {
    /// Why the line has ended, if it has.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        match self {
            Self::Closed(reason) => Some(reason),
            Self::Message(_) | Self::Lost(_) => None,
        }
    }

    /// The same as a [`TransportError`], with the line's endpoint.
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
                write!(f, "the line was lost, and {messages} messages may not have left")
            }
        }
    }
}

impl std::error::Error for SendError {}

/// What can be done with any [`Sender`].
pub trait SenderExt: Sender {
    /// Waits for room, queues the message and flushes it.
    ///
    /// Dropped half-way, it has queued the whole message or nothing of it; a queued message leaves
    /// with the next send, flush or close.
    ///
    /// # Errors
    /// As [`Sender::start_send`].
    fn send(
        &mut self,
        message: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<(), SendError>> + Send {
        async move {
            self.feed(message).await?;
            self.flush().await
        }
    }

    /// Waits for room and queues the message, which is made [`Bytes`] of at once; a flush must follow.
    /// Cancel-safe as [`send`](Self::send).
    ///
    /// # Errors
    /// As [`Sender::start_send`].
    fn feed(
        &mut self,
        message: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<(), SendError>> + Send {
        Feed { sender: self, message: Some(message.into()) }
    }

    /// Waits until everything queued was handed to the operating system. Cancel-safe.
    ///
    /// # Errors
    /// The line has ended.
    fn flush(&mut self) -> impl Future<Output = Result<(), SendError>> + Send {
        std::future::poll_fn(|cx| self.poll_flush(cx))
    }

    /// Flushes and ends this direction ([`Sender::poll_close`]). Cancel-safe: call it again.
    ///
    /// # Errors
    /// The line ended before everything was flushed.
    fn close(&mut self) -> impl Future<Output = Result<(), SendError>> + Send {
        std::future::poll_fn(|cx| self.poll_close(cx))
    }

    /// Waits until the far side is gone altogether ([`Sender::poll_gone`]). Cancel-safe.
    fn gone(&mut self) -> impl Future<Output = ()> + Send {
        std::future::poll_fn(|cx| self.poll_gone(cx))
    }
}

impl<S: Sender + ?Sized> SenderExt for S {}

/// What can be done with any [`Receiver`].
pub trait ReceiverExt: Receiver {
    /// Waits for the next thing that comes in. Cancel-safe: dropped half-way, it loses nothing.
    fn recv(&mut self) -> impl Future<Output = Incoming> + Send {
        Recv(self)
    }
}

impl<R: Receiver + ?Sized> ReceiverExt for R {}

/// Behind [`SenderExt::feed`]. It is no `poll_fn`, and so is [`Recv`] none, because that would stay a call of
/// its own: a message that is handed over in memory, and read again at once, costs several nanoseconds.
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

/// Behind [`ReceiverExt::recv`].
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

    fn start_send_behind(&mut self, head: &[u8], message: &Bytes) -> Result<(), SendError> {
        (**self).start_send_behind(head, message)
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
}

/// Yields a new channel each time it is asked.
pub trait Connector: Send + Sync + 'static {
    /// What it yields.
    type Channel: Channel;

    /// Connects. Cancel-safe: a dropped attempt leaves nothing behind.
    ///
    /// # Errors
    /// Each cause has its own [`ErrorKind`].
    fn connect(&self) -> impl Future<Output = Result<Self::Channel, TransportError>> + Send;
}

/// Yields the channels that come in. Dropping it stops listening.
pub trait Acceptor: Send + 'static {
    /// What it yields.
    type Channel: Channel;

    /// Waits for the next channel. Cancel-safe.
    ///
    /// # Errors
    /// One that [is retryable](TransportError::is_retryable) concerns the moment, not the acceptor.
    fn accept(&mut self) -> impl Future<Output = Result<Self::Channel, TransportError>> + Send;

    /// Where it listens.
    fn endpoint(&self) -> &Endpoint;
}
