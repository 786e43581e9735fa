//! The incoming half: reads, answers pings, runs the heartbeat, and completes the close handshake.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};
use tieline_proto::json::{self, Limits};
use tieline_proto::websocket::{Close, CloseCode, Decoder, Event, Kind, Role, Violation};
use tieline_proto::{ByteSize, Fault, FrameError, Heartbeat, HeartbeatEvent, Truncated};
use tieline_transport::{
    CloseReason, Incoming, MemoryBudget, MemoryRefused, ReadBuffer, ReadHalf, Receiver, from_now,
};
use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::Content;
use super::reason::{close_for, reason_of};
use super::shared_socket::{SharedSocket, Side};
use crate::stream::BoxRead;

/// How long the other side may take to read the close reason after it has violated the protocol.
const LINGER: Duration = Duration::from_secs(2);
/// The maximum time that buffers on the network path may take to deliver the last bytes that have left
/// this machine.
const MAX_PATIENCE: Duration = Duration::from_secs(60);

/// Reads a WebSocket until the line ends.
pub(super) struct Reader {
    read: ReadHalf<BoxRead>,
    decoder: Decoder,
    buffer: ReadBuffer,
    /// The kind of the last message.
    kind: Kind,
    /// The remaining lines of a text with several messages.
    rest: Bytes,
    /// Whether a pong or ping waits to be written, which only the receiver does.
    owes: bool,
    pulse: Option<Pulse>,
    /// The task that is registered with everything that can wake the receiver.
    waker: Option<Waker>,
    /// The side under which the waker is registered.
    side: Side,
    /// The wait for the answer to this side's close frame.
    answer: Option<Answer>,
    shared: Arc<SharedSocket>,
    stage: Stage,
    keeps_sender_open: bool,
    begun: Instant,
}

enum Stage {
    Reading,
    /// The other side has violated the protocol. The close frame is sent when the sender is closed.
    Refused(CloseReason),
    /// The last frames are being written. With `awaits_peer`, the other side must also read them.
    Leaving {
        reason: CloseReason,
        deadline: Pin<Box<Sleep>>,
        awaits_peer: bool,
    },
    Ended(CloseReason),
}

struct Answer {
    timer: Pin<Box<Sleep>>,
    /// How many bytes had left this machine at the last check.
    left: u64,
    begun: Instant,
}

struct Pulse {
    heartbeat: Heartbeat,
    timer: Pin<Box<Sleep>>,
}

impl Reader {
    pub(super) fn new(
        read: ReadHalf<BoxRead>,
        buffer: BytesMut,
        role: Role,
        expects_end: bool,
        shared: Arc<SharedSocket>,
        memory: Option<&MemoryBudget>,
    ) -> Self {
        let begun = Instant::now();
        let pulse = shared.config.heartbeat.map(|config| {
            let limit = shared.config.channel.stall_timeout;
            let heartbeat = Heartbeat::new(config, Duration::ZERO).with_stall_limit(limit);
            let timer = Box::pin(sleep_until(begun + heartbeat.next_wake()));
            Pulse { heartbeat, timer }
        });
        let mut decoder = Decoder::new(role, shared.config.channel.max_message);
        if expects_end {
            decoder.expect_end();
        }
        Self {
            read,
            decoder,
            buffer: ReadBuffer::new(buffer).within(memory),
            kind: Kind::Text,
            rest: Bytes::new(),
            owes: false,
            pulse,
            waker: None,
            side: Side::Receiver,
            answer: None,
            shared,
            stage: Stage::Reading,
            keeps_sender_open: false,
            begun,
        }
    }

    /// Returns the kind of the last message.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns whether, after an end, only the other side's input has ended, so that control frames may
    /// follow.
    pub(super) fn has_more_to_read(&self) -> bool {
        matches!(self.stage, Stage::Reading)
    }

    /// Handles the end of the other side's input. If this side has already sent its close frame, the
    /// line ends only with the answer to it.
    fn end_input(&mut self) -> Option<Incoming> {
        if self.shared.is_closing.load(Relaxed) {
            return None;
        }
        // From here on, a task reads, and ends the line at once if the other side violates the protocol.
        (self.side, self.waker, self.keeps_sender_open) = (Side::Reader, None, false);
        Some(Incoming::End(CloseReason::ByPeer))
    }

    /// Reads once into the buffer. Returns 0 at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let missing = self.decoder.missing(&self.buffer);
        self.buffer.set_beside(self.decoder.held());
        self.buffer.poll_fill(&mut self.read, missing, cx)
    }

    /// Reads once. Returns `None` unless the line has ended.
    #[inline(never)]
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        self.write_owed(cx);
        match self.poll_fill(cx) {
            Poll::Ready(Ok(0)) => Poll::Ready(Some(self.end_of_stream())),
            Poll::Ready(Ok(_)) => {
                let now = self.begun.elapsed();
                self.shared.is_reading.store(false, Relaxed);
                self.decoder.refill(now);
                if let Some(pulse) = &mut self.pulse {
                    pulse.heartbeat.alive(now);
                }
                Poll::Ready(None)
            }
            Poll::Ready(Err(error)) => match MemoryRefused::in_error(&error) {
                Some(refused) => {
                    self.refuse(refused.into());
                    Poll::Ready(None)
                }
                None => Poll::Ready(Some(self.cut_off(error))),
            },
            Poll::Pending => {
                self.shared.is_reading.store(true, Relaxed);
                let is_new = self.waker.as_ref().is_none_or(|it| !it.will_wake(cx.waker()));
                if is_new {
                    // The line may be ended elsewhere at any time, even before the waker was registered.
                    self.waker = Some(cx.waker().clone());
                    self.shared.register(self.side, cx);
                }
                match self.shared.control.close_reason() {
                    Some(reason @ (CloseReason::Stalled | CloseReason::NoMemory(_))) => {
                        return Poll::Ready(Some(self.end(reason)));
                    }
                    _ if self.shared.is_closing.load(Relaxed) => {
                        ready!(self.poll_answer(cx));
                        return Poll::Ready(Some(self.unanswered()));
                    }
                    _ => {}
                }
                ready!(self.poll_pulse(cx, is_new));
                Poll::Ready(Some(self.end(CloseReason::TimedOut)))
            }
        }
    }

    /// Completes when the answer to this side's close frame is overdue. The other side answers after it
    /// has received all earlier bytes, so the wait starts again while bytes leave this machine. The last
    /// bytes in transit may take as long as all the bytes before them.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.shared.config.close_timeout;
        let shared = &self.shared;
        let answer = self.answer.get_or_insert_with(|| Answer {
            timer: Box::pin(sleep(limit)),
            left: shared.out().outgoing().left,
            begun: Instant::now(),
        });
        loop {
            ready!(answer.timer.as_mut().poll(cx));
            let left = shared.out().outgoing().left;
            if std::mem::replace(&mut answer.left, left) == left {
                return Poll::Ready(());
            }
            let again = limit.max(answer.begun.elapsed().min(MAX_PATIENCE));
            answer.timer.as_mut().reset(from_now(again));
        }
    }

    /// Completes when the heartbeat considers the other side lost.
    fn poll_pulse(&mut self, cx: &mut Context<'_>, is_new: bool) -> Poll<()> {
        match &self.pulse {
            Some(pulse) if is_new || pulse.timer.is_elapsed() => {}
            // A pong can move the deadline to an earlier time, if it was later than the next ping.
            Some(pulse) if pulse.timer.deadline() > self.begun + pulse.heartbeat.next_wake() => {}
            _ => return Poll::Pending,
        }
        let is_receiving = self.decoder.part(&self.buffer).is_some();
        loop {
            let Some(pulse) = &mut self.pulse else { return Poll::Pending };
            let now = self.begun.elapsed();
            let outgoing = self.shared.out().outgoing();
            pulse.heartbeat.sending(now, outgoing.left, outgoing.waiting);
            pulse.heartbeat.receiving(is_receiving);
            let mut pings = false;
            while let Some(event) = pulse.heartbeat.poll(now) {
                match event {
                    HeartbeatEvent::Ping => pings = true,
                    HeartbeatEvent::Down => return Poll::Ready(()),
                    _ => {}
                }
            }
            let wake = self.begun + pulse.heartbeat.next_wake();
            // Received bytes only postpone the wakeup, so the timer need not be reset for each of them.
            if pulse.timer.is_elapsed() || pulse.timer.deadline() > wake {
                pulse.timer.as_mut().reset(wake);
            }
            self.shared.poll_receiver_by(pulse.timer.deadline());
            // Unconstrained, because a timer that is out of budget does not register the waker.
            let timer = pin!(coop::unconstrained(pulse.timer.as_mut())).poll(cx);
            if pings {
                self.shared.out().ping();
                self.owes = true;
                self.write_owed(cx);
            }
            ready!(timer);
        }
    }

    /// Writes pending control frames as far as possible without waiting. If a write fails, the next read
    /// returns the reason.
    fn write_owed(&mut self, cx: &mut Context<'_>) {
        if !self.owes {
            return;
        }
        let shared = &self.shared;
        let polled = shared.poll_out(self.side, cx, |out, cx| {
            if out.has_ended() {
                return Poll::Ready(());
            }
            if let Err(reason) = ready!(out.poll_flush(cx)) {
                shared.broken(out, reason);
            }
            Poll::Ready(())
        });
        self.owes = polled.is_pending();
    }

    /// Handles a received message. Returns the message, the first of several, or none.
    fn take(&mut self, kind: Kind, payload: Bytes) -> Result<Option<Incoming>, Violation> {
        self.buffer.took(payload.len());
        self.kind = kind;
        match (self.shared.content, kind) {
            (Content::Carrier, Kind::Text) => Err(Violation::Unsupported),
            (Content::Carrier, Kind::Binary) => Ok(Some(self.incoming(payload, None))),
            (Content::Verbatim, kind) => {
                if kind == Kind::Binary {
                    self.shared.heard_binary.store(true, Relaxed);
                }
                Ok(Some(self.incoming(payload, None)))
            }
            (Content::Plain(limits), Kind::Binary) if !payload.is_empty() => {
                // Binary messages can also hold JSON on several lines.
                let is_spread = memchr2(b'\n', b'\r', &payload).is_some();
                let line =
                    is_spread.then(|| json::to_one_line(&payload, limits.unwrap_or_default()));
                let message = line.and_then(Result::ok).unwrap_or(payload);
                Ok(Some(self.incoming(message, limits)))
            }
            (Content::Plain(limits) | Content::Texts(limits), Kind::Text) => {
                let text = trimmed(payload);
                let is_spread = memchr2(b'\n', b'\r', &text).is_some();
                if !is_spread && !text.is_empty() {
                    return Ok(Some(self.incoming(text, limits)));
                }
                // JSON on several lines is joined into one line, because line-based framings require it.
                // Any other text has one message on each line.
                if let Ok(line) = json::to_one_line(&text, limits.unwrap_or_default()) {
                    return Ok(Some(self.incoming(line, limits)));
                }
                self.rest = text;
                match self.next_line() {
                    Some(first) => Ok(Some(first)),
                    None => {
                        self.shared.counts.faults.fetch_add(1, Relaxed);
                        self.decoder.charge().map(|()| None)
                    }
                }
            }
            (Content::Plain(_) | Content::Texts(_), Kind::Binary) => {
                self.shared.counts.faults.fetch_add(1, Relaxed);
                Ok(None)
            }
        }
    }

    fn next_line(&mut self) -> Option<Incoming> {
        while !self.rest.is_empty() {
            let end = memchr(b'\n', &self.rest).unwrap_or(self.rest.len());
            let line = trimmed(self.rest.split_to(end));
            self.rest.advance(self.rest.len().min(1));
            if !line.is_empty() {
                let (Content::Plain(limits) | Content::Texts(limits)) = self.shared.content else {
                    return None;
                };
                return Some(self.incoming(line, limits));
            }
        }
        None
    }

    /// Counts a message. Returns a fault if it is not JSON as required.
    fn incoming(&self, message: Bytes, limits: Option<Limits>) -> Incoming {
        match limits.and_then(|limits| Fault::unless_json(&message, limits)) {
            None => {
                self.shared.counts.messages_in.fetch_add(1, Relaxed);
                Incoming::Message(message)
            }
            Some(fault) => {
                self.shared.counts.faults.fetch_add(1, Relaxed);
                Incoming::Fault(fault)
            }
        }
    }

    /// Handles a close frame, which may be the answer to this side's close frame.
    fn closed(&mut self, close: Option<Close>) {
        let is_normal = close.as_ref().is_none_or(|close| close.code == CloseCode::NORMAL);
        // A normal close after the end of this side's input is the answer to that end.
        let is_answer = self.shared.is_closing.load(Relaxed)
            || (is_normal && self.shared.out().has_ended_input());
        let reason = if is_answer { CloseReason::ByUs } else { reason_of(close.clone()) };
        let echo = close.map(|close| Close::new(close.code));
        self.shared.out().close(echo.as_ref(), reason.clone());
        self.leave(reason, self.shared.config.close_timeout, false);
    }

    /// Closes the line because the other side has violated the protocol.
    fn break_off(&mut self, violation: Violation) {
        self.shared.counts.faults.fetch_add(1, Relaxed);
        self.refuse(CloseReason::Protocol(FrameError::from(violation)));
    }

    /// Closes the line for `reason`, and waits a moment for the other side to read it.
    fn refuse(&mut self, reason: CloseReason) {
        if self.keeps_sender_open && self.shared.out().closed().is_none() {
            self.stage = Stage::Refused(self.shared.control.end(reason));
            self.pulse = None;
            return self.release();
        }
        // Record the reason before the sender can notice that the line is closed.
        self.shared.control.end(reason.clone());
        self.shared.out().close(Some(&close_for(Some(&reason))), reason.clone());
        self.leave(reason, LINGER, true);
    }

    /// Releases the memory of received bytes.
    fn release(&mut self) {
        self.decoder.release();
        self.buffer.release();
    }

    /// Returns the end of a line whose sender was left open. Once the sender is closed, waits a moment
    /// for the other side to read the reason.
    fn poll_refused(&mut self, reason: CloseReason, cx: &mut Context<'_>) -> Poll<Incoming> {
        if self.shared.out().closed().is_none() {
            return Poll::Ready(Incoming::End(reason));
        }
        self.leave(reason, LINGER, true);
        self.poll_leave(cx)
    }

    fn leave(&mut self, reason: CloseReason, limit: Duration, awaits_peer: bool) {
        let reason = self.shared.control.end(reason);
        self.release();
        let deadline = Box::pin(sleep(limit));
        self.stage = Stage::Leaving { reason, deadline, awaits_peer };
        self.shared.wake();
    }

    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let Stage::Leaving { reason, deadline, awaits_peer } = &mut self.stage else {
            return Poll::Pending;
        };
        let (reason, awaits_peer) = (reason.clone(), *awaits_peer);
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(self.end(reason));
        }
        // Closing a connection with unread bytes can discard sent bytes.
        let mut read = if awaits_peer { self.poll_discard(cx) } else { Poll::Ready(()) };
        let written = self.shared.poll_out(self.side, cx, |out, cx| match out.has_ended() {
            true => Poll::Ready(()),
            false => out.poll_shutdown(cx),
        });
        if read.is_pending() && written.is_ready() {
            read = self.poll_discard(cx);
        }
        ready!(read);
        ready!(written);
        Poll::Ready(self.end(reason))
    }

    /// Reads to the end and discards everything.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.buffer.clear();
            match ready!(self.poll_fill(cx)) {
                Ok(read) if read > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Ends the line, because the stream has ended without a close frame.
    fn end_of_stream(&mut self) -> Incoming {
        self.cut_off(io::ErrorKind::UnexpectedEof.into())
    }

    fn cut_off(&mut self, error: io::Error) -> Incoming {
        if self.shared.is_closing.load(Relaxed) {
            // The other side received the close frame and disconnected without answering.
            return self.unanswered();
        }
        let reason = self.truncated().unwrap_or_else(|| match error.kind() {
            // The system has given up on bytes that the other side did not acknowledge.
            io::ErrorKind::TimedOut => CloseReason::Stalled,
            _ => error.into(),
        });
        self.end(reason)
    }

    /// Ends the line without an answer to the close frame. An incomplete message is lost.
    fn unanswered(&mut self) -> Incoming {
        let reason = self.truncated().unwrap_or(CloseReason::ByUs);
        self.end(reason)
    }

    /// Returns the reason for a stream that ended within a message.
    fn truncated(&self) -> Option<CloseReason> {
        let received = self.decoder.part(&self.buffer)?;
        Some(CloseReason::Truncated(Truncated { received, expected: None }))
    }

    fn end(&mut self, reason: CloseReason) -> Incoming {
        let reason = self.shared.control.end(reason);
        self.shared.out().end(reason.clone());
        self.release();
        (self.pulse, self.answer) = (None, None);
        self.stage = Stage::Ended(reason.clone());
        self.shared.wake();
        Incoming::End(reason)
    }
}

/// Removes white space at both ends.
fn trimmed(text: Bytes) -> Bytes {
    let kept = text.trim_ascii();
    if kept.len() == text.len() { text } else { text.slice_ref(kept) }
}

impl Receiver for Reader {
    #[inline]
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        if !self.rest.is_empty() {
            if let Some(incoming) = self.next_line() {
                return Poll::Ready(incoming);
            }
        }
        while let Stage::Reading = self.stage {
            let taken = match self.decoder.decode(&mut self.buffer) {
                Ok(Some(Event::Message(kind, payload))) => self.take(kind, payload),
                Ok(Some(Event::Ping(payload))) => {
                    self.shared.out().pong(payload);
                    self.owes = true;
                    Ok(None)
                }
                Ok(Some(Event::Pong(_))) => Ok(None),
                Ok(Some(Event::End)) => Ok(self.end_input()),
                Ok(Some(Event::Close(close))) => {
                    self.closed(close);
                    Ok(None)
                }
                Ok(None) => Ok(ready!(self.poll_more(cx))),
                Err(violation) => Err(violation),
            };
            match taken {
                Ok(Some(incoming)) => return Poll::Ready(incoming),
                Ok(None) => {}
                Err(violation) => self.break_off(violation),
            }
        }
        match &self.stage {
            Stage::Ended(reason) => Poll::Ready(Incoming::End(reason.clone())),
            Stage::Refused(reason) => self.poll_refused(reason.clone(), cx),
            _ => self.poll_leave(cx),
        }
    }

    fn limit_to(&mut self, max: ByteSize) -> Option<ByteSize> {
        Some(self.decoder.limit_to(max))
    }

    fn holds_part(&self) -> bool {
        !self.rest.is_empty() || self.decoder.part(&self.buffer).is_some()
    }

    fn keep_sender_open(&mut self) {
        self.keeps_sender_open = true;
    }

    /// Does not count bytes in the kernel, because they may be a ping or the close frame.
    fn unread(&self) -> u64 {
        let part = self.decoder.part(&self.buffer).unwrap_or_default();
        (self.rest.len() as u64).saturating_add(part as u64)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.is_reading.store(false, Relaxed);
    }
}
