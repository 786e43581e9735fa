//! The outgoing queue, which both halves share under a lock. Its frames are written in batches.

use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tieline_proto::EncodeError;
use tieline_proto::websocket::{Close, Encoder, Kind, Role};
use tieline_transport::{
    ChannelConfig, CloseReason, MemoryBudget, Outgoing, WriteHalf, WriteQueue,
};

use crate::stream::BoxWrite;

/// The queue of outgoing frames.
pub(super) struct Out {
    queue: WriteQueue<WriteHalf<BoxWrite>>,
    encoder: Encoder,
    /// The masks, if this side is the client.
    masks: Option<Masks>,
    /// The payload of the last ping that arrived while the queue was full. Earlier ones are not
    /// answered.
    owed: Option<Bytes>,
    stage: Stage,
    bound: usize,
}

enum Stage {
    Open,
    /// The end of input is queued: no message may follow, but pings, pongs and the close frame may.
    InputEnded,
    /// The close frame is queued: nothing may follow it. The line ends for this reason.
    Closing(CloseReason),
    /// Nothing more can be written. The line has ended for this reason.
    Ended(CloseReason),
}

impl Out {
    pub(super) fn new(
        write: WriteHalf<BoxWrite>,
        role: Role,
        config: &ChannelConfig,
        memory: Option<&MemoryBudget>,
    ) -> Self {
        Self {
            queue: WriteQueue::new(write, config.stall_timeout).within(memory),
            encoder: Encoder::new(config.max_message),
            masks: (role == Role::Client).then(Masks::new),
            owed: None,
            stage: Stage::Open,
            bound: config.write_queue.bytes(),
        }
    }

    /// Returns the reason why no more messages may be sent, or `None` if they may.
    #[inline]
    pub(super) fn closed(&self) -> Option<&CloseReason> {
        match &self.stage {
            Stage::Open => None,
            Stage::InputEnded => Some(&CloseReason::ByUs),
            Stage::Closing(reason) | Stage::Ended(reason) => Some(reason),
        }
    }

    /// Returns whether pings, pongs and the close frame may be sent.
    fn takes_control(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::InputEnded)
    }

    /// Returns whether this side has ended its input but has not closed yet.
    pub(super) fn has_ended_input(&self) -> bool {
        matches!(self.stage, Stage::InputEnded)
    }

    /// Returns whether this side has sent its own close frame and waits for the answer.
    pub(super) fn awaits_answer(&self) -> bool {
        matches!(self.stage, Stage::Closing(CloseReason::ByUs))
    }

    /// Returns whether no sent message will be read, because the other side has closed or the line has
    /// ended.
    pub(super) fn is_gone(&self) -> bool {
        match &self.stage {
            Stage::Open | Stage::InputEnded => false,
            Stage::Closing(reason) => !matches!(reason, CloseReason::ByUs),
            Stage::Ended(_) => true,
        }
    }

    pub(super) fn outgoing(&self) -> Outgoing {
        self.queue.outgoing()
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended(_))
    }

    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < self.bound
    }

    #[inline]
    pub(super) fn message(
        &mut self,
        kind: Kind,
        parts: (&[u8], &Bytes),
    ) -> Result<(), EncodeError> {
        let mask = self.mask();
        self.encoder.message(kind, parts, mask, &mut self.queue)
    }

    /// Queues a ping, unless the queue is full: the ping would be too late to be useful.
    pub(super) fn ping(&mut self) {
        if self.takes_control() && self.has_room() {
            let mask = self.mask();
            self.encoder.ping(b"", mask, &mut self.queue);
        }
    }

    /// Answers a ping as soon as the queue has room.
    pub(super) fn pong(&mut self, payload: Bytes) {
        if !self.takes_control() {
            return;
        }
        if !self.has_room() {
            self.owed = Some(payload);
        } else {
            let mask = self.mask();
            self.encoder.pong(&payload, mask, &mut self.queue);
        }
    }

    /// Queues the end of this side's messages.
    pub(super) fn end_input(&mut self) {
        if let Stage::Open = self.stage {
            let mask = self.mask();
            self.encoder.end(mask, &mut self.queue);
            self.stage = Stage::InputEnded;
        }
    }

    /// Queues the close frame, unless it is queued already. The line ends for `reason`.
    pub(super) fn close(&mut self, close: Option<&Close>, reason: CloseReason) {
        if self.takes_control() {
            let mask = self.mask();
            self.encoder.close(close, mask, &mut self.queue);
            self.owed = None;
            self.stage = Stage::Closing(reason);
        }
    }

    /// Ends the outgoing direction and drops the queued bytes.
    pub(super) fn end(&mut self, reason: CloseReason) {
        if !self.has_ended() {
            self.stage = Stage::Ended(reason);
        }
        self.queue.clear();
        self.owed = None;
    }

    /// Writes until at most `allowed` bytes are queued.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        allowed: usize,
    ) -> Poll<Result<(), CloseReason>> {
        loop {
            if self.has_room() {
                if let Some(payload) = self.owed.take() {
                    self.pong(payload);
                }
            }
            if self.queue.len() <= allowed {
                return Poll::Ready(Ok(()));
            }
            ready!(self.queue.poll_write(cx))?;
        }
    }

    /// Writes everything, including the buffers of lower layers.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        ready!(self.poll_drain(cx, 0))?;
        self.queue.poll_flush(cx)
    }

    /// Writes everything and ends the stream. Errors are ignored.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_flush(cx)).is_ok() {
            let _ = ready!(self.queue.poll_shutdown(cx));
        }
        Poll::Ready(())
    }

    /// Sends the close frame if that is possible without waiting or cutting a frame.
    pub(super) fn try_goodbye(&mut self, close: &Close) {
        if self.takes_control() && self.queue.is_empty() {
            self.close(Some(close), CloseReason::ByUs);
            let _ = self.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    #[inline]
    fn mask(&mut self) -> Option<[u8; 4]> {
        self.masks.as_mut().map(Masks::next)
    }
}

/// Unpredictable masks, so that a page cannot choose the bytes that a client writes (RFC 6455, section
/// 10.3). Random bytes are requested from the system in blocks.
struct Masks {
    random: [u8; 256],
    used: usize,
}

impl Masks {
    fn new() -> Self {
        Self { random: [0; 256], used: 256 }
    }

    fn next(&mut self) -> [u8; 4] {
        if self.used >= self.random.len() {
            // If the system had no random bytes, the handshake would already have failed.
            let _ = getrandom::fill(&mut self.random);
            self.used = 0;
        }
        let mask = self.random.get(self.used..).and_then(|rest| rest.first_chunk());
        self.used += 4;
        mask.copied().unwrap_or_default()
    }
}
