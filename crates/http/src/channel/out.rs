//! What goes out, under the lock that both halves share: one queue, written in batches.

use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tieline_proto::EncodeError;
use tieline_proto::websocket::{Close, Encoder, Kind, Role};
use tieline_transport::{
    ChannelConfig, CloseReason, MemoryBudget, Outgoing, WriteHalf, WriteQueue,
};

use crate::stream::BoxWrite;

/// Frames on their way out.
pub(super) struct Out {
    queue: WriteQueue<WriteHalf<BoxWrite>>,
    encoder: Encoder,
    /// A client's.
    masks: Option<Masks>,
    /// A ping that came while the queue was full: of several, the last one is answered.
    owed: Option<Bytes>,
    stage: Stage,
    bound: usize,
}

enum Stage {
    Open,
    /// The end of input is queued: no message may follow, but pings, pongs and the close frame may.
    InputEnded,
    /// The close frame is queued: nothing may follow it. Why the line ends, where it is known.
    Closing(CloseReason),
    /// The writing end is gone.
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

    /// Why nothing more may be sent, if so.
    #[inline]
    pub(super) fn closed(&self) -> Option<&CloseReason> {
        match &self.stage {
            Stage::Open => None,
            Stage::InputEnded => Some(&CloseReason::ByUs),
            Stage::Closing(reason) | Stage::Ended(reason) => Some(reason),
        }
    }

    /// Whether pings, pongs and the close frame may be sent.
    fn takes_control(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::InputEnded)
    }

    /// Whether this side has ended its input, and not closed yet.
    pub(super) fn has_ended_input(&self) -> bool {
        matches!(self.stage, Stage::InputEnded)
    }

    /// Whether this side has sent its own close frame and waits for the answer.
    pub(super) fn awaits_answer(&self) -> bool {
        matches!(self.stage, Stage::Closing(CloseReason::ByUs))
    }

    /// Whether nothing that is sent will be read, because the other side has closed or the line has ended.
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

    /// A ping, unless there is so much to be sent that it would come too late anyway.
    pub(super) fn ping(&mut self) {
        if self.takes_control() && self.has_room() {
            let mask = self.mask();
            self.encoder.ping(b"", mask, &mut self.queue);
        }
    }

    /// Answers a ping; behind a full queue, when there is room.
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

    /// Queues the close frame, unless it was before. The line ends for `reason`.
    pub(super) fn close(&mut self, close: Option<&Close>, reason: CloseReason) {
        if self.takes_control() {
            let mask = self.mask();
            self.encoder.close(close, mask, &mut self.queue);
            self.owed = None;
            self.stage = Stage::Closing(reason);
        }
    }

    /// Nothing can be written any more; what waits is lost.
    pub(super) fn end(&mut self, reason: CloseReason) {
        if !self.has_ended() {
            self.stage = Stage::Ended(reason);
        }
        self.queue.clear();
        self.owed = None;
    }

    /// Writes until at most `allowed` bytes wait.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        allowed: usize,
    ) -> Poll<Result<(), CloseReason>> {
        loop {
            if self.has_room()
                && let Some(payload) = self.owed.take()
            {
                self.pong(payload);
            }
            if self.queue.len() <= allowed {
                return Poll::Ready(Ok(()));
            }
            ready!(self.queue.poll_write(cx))?;
        }
    }

    /// Writes all, through buffers below, too.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        ready!(self.poll_drain(cx, 0))?;
        self.queue.poll_flush(cx)
    }

    /// Writes all and ends the stream. Whether that succeeds is nobody's concern any more.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_flush(cx)).is_ok() {
            let _ = ready!(self.queue.poll_shutdown(cx));
        }
        Poll::Ready(())
    }

    /// Says goodbye if that takes no waiting and tears no frame.
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

/// Masks that nobody can foresee, so that no page makes a client write bytes of its choice: random
/// bytes of the system, many at a time.
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
            // A system without random bytes has long failed elsewhere: the handshake needs them, too.
            let _ = getrandom::fill(&mut self.random);
            self.used = 0;
        }
        let mask = self.random.get(self.used..).and_then(|rest| rest.first_chunk());
        self.used += 4;
        mask.copied().unwrap_or_default()
    }
}
