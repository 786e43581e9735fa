//! Decoding frames into messages.

use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::header::{Header, Opcode};
use super::mask::apply_mask;
use super::utf8::Utf8;
use super::{Close, Event, Kind, Role, Violation};
use crate::byte_size::ByteSize;
use crate::framing::take_message;

/// How many tiny frames (pings, pongs, empty messages, small fragments) a peer may send at once.
pub const ALLOWANCE: u32 = 1024;
/// How many tiny frames are added to the allowance per second.
pub const ALLOWANCE_A_SECOND: u32 = 128;
/// Fragments of at least this many bytes are not tiny frames.
pub const FREE_FRAGMENT: usize = 32;
/// How many small fragments of a message are refunded once it is complete.
const FORGIVEN: u32 = 8;

/// A decoder that takes frames off the front of a buffer, checks them, and joins fragments.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    max_message: ByteSize,
    /// The message whose fragments are being received.
    under_way: Option<UnderWay>,
    allowance: u32,
    refilled: Duration,
    end: End,
}

/// The state of the end of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The extension for the end of input was not negotiated.
    Unknown,
    Expected,
    Received,
}

#[derive(Debug)]
struct UnderWay {
    kind: Kind,
    joined: BytesMut,
    utf8: Utf8,
    /// How much of the allowance the message's small fragments consumed.
    charged: u32,
}

impl Decoder {
    /// Sets the message limit to `most` and returns the previous one.
    pub fn limit_to(&mut self, most: ByteSize) -> ByteSize {
        std::mem::replace(&mut self.max_message, most)
    }

    /// Creates a decoder for the frames that `role` receives, with messages of at most `max_message`.
    pub fn new(role: Role, max_message: ByteSize) -> Self {
        let (allowance, refilled) = (ALLOWANCE, Duration::ZERO);
        Self { role, max_message, under_way: None, allowance, refilled, end: End::Unknown }
    }

    /// Makes the decoder accept one end-of-input frame. Call this after the extension was negotiated.
    pub fn expect_end(&mut self) {
        self.end = End::Expected;
    }

    /// Refills the allowance for tiny frames according to the time since the last call. `now` is the
    /// time since any fixed moment. Call this before each read, or as often as is convenient.
    pub fn refill(&mut self, now: Duration) {
        if self.allowance == ALLOWANCE {
            self.refilled = now;
            return;
        }
        let elapsed = now.saturating_sub(self.refilled).as_millis();
        let more = elapsed.saturating_mul(u128::from(ALLOWANCE_A_SECOND)) / 1000;
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if more > 0 {
            self.allowance = self.allowance.saturating_add(more).min(ALLOWANCE);
            self.refilled = now;
        }
    }

    /// Takes one frame off the allowance for a message that the caller considers empty.
    ///
    /// # Errors
    /// The allowance is used up.
    pub fn charge(&mut self) -> Result<(), Violation> {
        self.allowance = self.allowance.checked_sub(1).ok_or(Violation::TooManyFrames)?;
        Ok(())
    }

    /// Decodes the next event. Returns `None` while it is incomplete. The caller appends to `buffer` and
    /// must not change the bytes that are already in it.
    ///
    /// # Errors
    /// The peer violated the protocol. No more frames may be decoded after that.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, Violation> {
        loop {
            let header = Header::read(buffer, self.role, self.end != End::Unknown)?;
            let Some(header) = header else { return Ok(None) };
            let length = self.admitted(&header)?;
            if buffer.len() - header.size < length {
                return Ok(None);
            }
            buffer.advance(header.size);
            if let (Some(mask), Some(payload)) = (header.mask, buffer.get_mut(..length)) {
                apply_mask(mask, payload);
            }
            let event = match header.opcode {
                Opcode::Close => Some(Event::Close(Close::read(&take_message(buffer, length, 0))?)),
                Opcode::Ping => {
                    self.charge()?;
                    Some(Event::Ping(take_message(buffer, length, 0)))
                }
                Opcode::Pong => {
                    self.charge()?;
                    Some(Event::Pong(take_message(buffer, length, 0)))
                }
                Opcode::End => {
                    self.end = End::Received;
                    Some(Event::End)
                }
                Opcode::Text => self.begun(Kind::Text, header.is_final, buffer, length)?,
                Opcode::Binary => self.begun(Kind::Binary, header.is_final, buffer, length)?,
                Opcode::Continuation => self.continued(header.is_final, buffer, length)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Returns the minimum number of bytes that the partly received frame still needs, which is never
    /// above the limit.
    pub fn missing(&self, buffer: &BytesMut) -> usize {
        match Header::read(buffer, self.role, self.end != End::Unknown) {
            Ok(Some(header)) => {
                let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                let within = length.min(self.max_message.bytes());
                within.saturating_add(header.size).saturating_sub(buffer.len())
            }
            _ => 0,
        }
    }

    /// Returns how many bytes of an incomplete message were received, or `None` if there is no such
    /// message.
    pub fn part(&self, buffer: &BytesMut) -> Option<usize> {
        match &self.under_way {
            Some(under_way) => Some(under_way.joined.len() + buffer.len()),
            None if buffer.is_empty() => None,
            None => Some(buffer.len()),
        }
    }

    /// Returns how much memory the joined fragments use.
    pub fn held(&self) -> usize {
        self.under_way.as_ref().map_or(0, |under_way| under_way.joined.capacity())
    }

    /// Frees the joined fragments. No more frames may be decoded after that.
    pub fn release(&mut self) {
        self.under_way = None;
    }

    /// Returns the length of a frame after checking that the frame is allowed here.
    fn admitted(&self, header: &Header) -> Result<usize, Violation> {
        if header.opcode == Opcode::End
            && (header.length > 0 || self.under_way.is_some() || self.end == End::Received)
        {
            return Err(Violation::MalformedEnd);
        }
        if header.opcode.is_control() {
            // The length is at most 125, which `Header::read` has checked.
            return Ok(header.length as usize);
        }
        if self.end == End::Received {
            return Err(Violation::AfterEnd);
        }
        let before = match (header.opcode, &self.under_way) {
            (Opcode::Continuation, None) => return Err(Violation::Continuation),
            (Opcode::Continuation, Some(under_way)) => under_way.joined.len(),
            (_, Some(_)) => return Err(Violation::Interleaved),
            (_, None) => 0,
        };
        let length = header.length.saturating_add(before as u64);
        if length > self.max_message.bytes() as u64 {
            return Err(Violation::Oversize { length, limit: self.max_message });
        }
        Ok(header.length as usize)
    }

    fn begun(
        &mut self,
        kind: Kind,
        is_final: bool,
        buffer: &mut BytesMut,
        length: usize,
    ) -> Result<Option<Event>, Violation> {
        if !is_final {
            let (joined, utf8) = (BytesMut::new(), Utf8::default());
            let under_way = UnderWay { kind, joined, utf8, charged: 0 };
            self.under_way = Some(under_way);
            return self.continued(false, buffer, length);
        }
        if length == 0 {
            self.charge()?;
        }
        let payload = buffer.get(..length).unwrap_or_default();
        if kind == Kind::Text && std::str::from_utf8(payload).is_err() {
            return Err(Violation::NotUtf8);
        }
        Ok(Some(Event::Message(kind, take_message(buffer, length, 0))))
    }

    fn continued(
        &mut self,
        is_final: bool,
        buffer: &mut BytesMut,
        length: usize,
    ) -> Result<Option<Event>, Violation> {
        let Some(mut under_way) = self.under_way.take() else {
            return Err(Violation::Continuation);
        };
        if length < FREE_FRAGMENT {
            self.charge()?;
            under_way.charged += 1;
        }
        let payload = buffer.get(..length).unwrap_or_default();
        if under_way.kind == Kind::Text && !under_way.utf8.feed(payload) {
            return Err(Violation::NotUtf8);
        }
        under_way.joined.extend_from_slice(payload);
        buffer.advance(length);
        if !is_final {
            self.under_way = Some(under_way);
            return Ok(None);
        }
        if !under_way.utf8.is_whole() {
            return Err(Violation::NotUtf8);
        }
        if !under_way.joined.is_empty() {
            let forgiven = under_way.charged.min(FORGIVEN);
            self.allowance = self.allowance.saturating_add(forgiven).min(ALLOWANCE);
        }
        Ok(Some(Event::Message(under_way.kind, under_way.joined.freeze())))
    }
}
