//! Parsing events from a stream.

use std::time::Duration;

use bytes::{Buf, Bytes};
use memchr::{memchr2, memchr3};

use crate::framing::FAULT_HEAD;

use super::{CR, Event, Excess, Item, LF, Limits, MAX_NAME};

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The length of the longest known field names, `event` and `retry`.
const LONGEST: usize = 5;

/// An incremental parser of event streams, which accepts the stream in pieces of any size.
///
/// The parser buffers the data of the current event, up to [`Limits::max_data`], one name and two ids.
/// Comments and unknown fields are not buffered and can be of any length. As the standard requires, an
/// event that is not followed by an empty line when the stream ends is discarded.
///
/// ```
/// use tieline_proto::sse::{Event, Item, Parser};
///
/// let mut parser = Parser::default();
/// let mut first = &b"event: add\ndata: 73"[..];
/// assert_eq!(parser.parse(&mut first), None);
/// let mut second = &b"857293\n\n"[..];
/// let event = Event { event: "add".into(), data: "73857293".into(), id: "".into() };
/// assert_eq!(parser.parse(&mut second), Some(Item::Event(event)));
/// assert_eq!(parser.parse(&mut second), None);
/// ```
#[derive(Clone, Debug)]
pub struct Parser {
    limits: Limits,
    line: Line,
    /// True if the last byte was a CR, so that a following LF is part of the same line ending.
    is_behind_cr: bool,
    /// The value of the current field, unless it is `data`.
    value: Vec<u8>,
    value_is_too_long: bool,
    data: Vec<u8>,
    has_data: bool,
    event: Vec<u8>,
    /// The id of the current event. It becomes the stream's last id once the event is complete.
    next_id: Option<Vec<u8>>,
    id: String,
    fields: usize,
    /// True if the current event is above a limit.
    is_lost: bool,
    /// The first bytes of the most recently discarded data.
    lost_head: Box<[u8]>,
}

/// The position in the current line.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// At the beginning of the stream, where a byte order mark may be, after this many bytes of the
    /// mark.
    Marked(usize),
    Name(Name),
    /// After the colon. One space here is not part of the value.
    Colon(Field),
    Value(Field),
    /// A comment or an unknown field.
    Ignored,
}

/// The name of a field as far as it has been received.
#[derive(Clone, Copy, Debug, Default)]
struct Name {
    bytes: [u8; LONGEST],
    length: usize,
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Data,
    Event,
    Id,
    Retry,
}

const BEGINNING: Line = Line::Name(Name { bytes: [0; LONGEST], length: 0 });

impl Default for Parser {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Parser {
    /// Creates a parser for the beginning of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            line: Line::Marked(0),
            is_behind_cr: false,
            value: Vec::new(),
            value_is_too_long: false,
            data: Vec::new(),
            has_data: false,
            event: Vec::new(),
            next_id: None,
            id: String::new(),
            fields: 0,
            is_lost: false,
            lost_head: Box::default(),
        }
    }

    /// Sets the last event id, for a stream that resumes a lost one. It stays in effect until the stream
    /// sets another id.
    #[must_use]
    pub fn behind(mut self, last_event_id: impl Into<String>) -> Self {
        self.id = last_event_id.into();
        self
    }

    /// Consumes the bytes of `input` up to the end of the next item and returns the item, or consumes
    /// all bytes if there is none.
    pub fn parse(&mut self, input: &mut impl Buf) -> Option<Item> {
        while input.has_remaining() {
            let (taken, item) = self.step(input.chunk());
            input.advance(taken);
            if item.is_some() {
                return item;
            }
        }
        None
    }

    /// Returns the last id that was set by a complete event, from which to resume if the stream is lost.
    /// It is empty if there is none.
    pub fn last_event_id(&self) -> &str {
        &self.id
    }

    /// Takes the first bytes of the data of the event that the last [`Item::Lost`] reported, at most
    /// [`FAULT_HEAD`]. The result is empty if the data was within its limit.
    pub fn take_lost_head(&mut self) -> Box<[u8]> {
        std::mem::take(&mut self.lost_head)
    }

    /// Returns how many bytes of an incomplete event are held.
    pub fn held_bytes(&self) -> usize {
        self.value.len() + self.data.len()
    }

    /// Returns whether part of an event was received.
    pub fn holds_part(&self) -> bool {
        let is_between_lines = match self.line {
            Line::Marked(length) | Line::Name(Name { length, .. }) => length == 0,
            _ => false,
        };
        !is_between_lines || self.has_data || self.is_lost || self.fields > 0
    }

    /// Consumes some bytes, or changes the state of the line without consuming any.
    fn step(&mut self, bytes: &[u8]) -> (usize, Option<Item>) {
        let Some(first) = bytes.first().copied() else { return (0, None) };
        let is_behind_cr = std::mem::replace(&mut self.is_behind_cr, false);
        if first == LF && is_behind_cr {
            return (1, None);
        }
        if matches!(first, CR | LF) {
            self.is_behind_cr = first == CR;
            return (1, self.end_line());
        }
        match self.line {
            Line::Marked(length) => {
                let is_next = BYTE_ORDER_MARK.get(length) == Some(&first);
                self.line = match (length, is_next) {
                    (2, true) | (0, false) => BEGINNING,
                    (_, true) => Line::Marked(length + 1),
                    // These bytes are not a byte order mark, so they begin an unknown field.
                    (_, false) => Line::Ignored,
                };
                (usize::from(is_next), None)
            }
            Line::Name(mut name) => {
                let end = memchr3(b':', CR, LF, bytes).unwrap_or(bytes.len());
                if end == 0 {
                    return (1, self.colon(name));
                }
                let is_short = name.extend(bytes.get(..end).unwrap_or_default());
                self.line = if is_short { Line::Name(name) } else { Line::Ignored };
                (end, None)
            }
            Line::Colon(field) => {
                self.line = Line::Value(field);
                (usize::from(first == b' '), None)
            }
            Line::Value(field) => {
                let end = end_of_line(bytes);
                (end, self.append(field, bytes.get(..end).unwrap_or_default()))
            }
            Line::Ignored => (end_of_line(bytes), None),
        }
    }

    fn colon(&mut self, name: Name) -> Option<Item> {
        let field = name.field();
        self.line = field.map_or(Line::Ignored, Line::Colon);
        self.begin(field?)
    }

    fn end_line(&mut self) -> Option<Item> {
        match std::mem::replace(&mut self.line, BEGINNING) {
            Line::Marked(0) | Line::Name(Name { length: 0, .. }) => self.dispatch(),
            Line::Marked(_) | Line::Ignored => None,
            Line::Name(name) => {
                let field = name.field()?;
                let excess = self.begin(field);
                // With an empty value, `finish` returns no item.
                self.finish(field).or(excess)
            }
            Line::Colon(field) | Line::Value(field) => self.finish(field),
        }
    }

    fn begin(&mut self, field: Field) -> Option<Item> {
        self.value.clear();
        self.value_is_too_long = false;
        self.fields = self.fields.saturating_add(1);
        if self.fields > self.limits.max_fields {
            return self.lose(Excess::Fields(self.limits.max_fields));
        }
        match field {
            Field::Data if std::mem::replace(&mut self.has_data, true) => self.append(field, b"\n"),
            _ => None,
        }
    }

    fn append(&mut self, field: Field, bytes: &[u8]) -> Option<Item> {
        if let Field::Data = field {
            if self.is_lost {
                return None;
            }
            let limit = self.limits.max_data;
            return match extend(&mut self.data, bytes, limit.bytes()) {
                true => None,
                false => {
                    let room = FAULT_HEAD.saturating_sub(self.data.len());
                    let more = bytes.get(..room).unwrap_or(bytes);
                    let kept = self.data.get(..FAULT_HEAD).unwrap_or(&self.data);
                    self.lost_head = [kept, more].concat().into();
                    self.lose(Excess::Data(limit))
                }
            };
        }
        if self.value_is_too_long || extend(&mut self.value, bytes, MAX_NAME.bytes()) {
            return None;
        }
        self.value_is_too_long = true;
        match field {
            // A retry time of this length is not a usable number and is ignored.
            Field::Retry => None,
            _ => self.lose(Excess::Name),
        }
    }

    fn finish(&mut self, field: Field) -> Option<Item> {
        if self.value_is_too_long {
            return None;
        }
        match field {
            Field::Data => {}
            Field::Event => std::mem::swap(&mut self.event, &mut self.value),
            Field::Id if self.value.contains(&0) => {}
            Field::Id => self.next_id = Some(std::mem::take(&mut self.value)),
            Field::Retry => return milliseconds(&self.value).map(Item::Retry),
        }
        None
    }

    /// Ends the current event at an empty line.
    fn dispatch(&mut self) -> Option<Item> {
        if let Some(id) = self.next_id.take() {
            self.id = text(id);
        }
        let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
        let has_data = std::mem::replace(&mut self.has_data, false);
        let is_lost = std::mem::replace(&mut self.is_lost, false);
        self.fields = 0;
        (has_data && !is_lost).then(|| {
            Item::Event(Event { event: text(event), data: Bytes::from(data), id: self.id.clone() })
        })
    }

    /// Discards the current event. Its id is kept: otherwise a client would request the event again and
    /// again.
    fn lose(&mut self, excess: Excess) -> Option<Item> {
        self.data = Vec::new();
        let is_news = !std::mem::replace(&mut self.is_lost, true);
        is_news.then_some(Item::Lost(excess))
    }
}

impl Name {
    /// Appends to the name. Returns false if it is then longer than all known names.
    fn extend(&mut self, bytes: &[u8]) -> bool {
        let length = self.length + bytes.len();
        let Some(place) = self.bytes.get_mut(self.length..length) else { return false };
        place.copy_from_slice(bytes);
        self.length = length;
        true
    }

    fn field(&self) -> Option<Field> {
        match self.bytes.get(..self.length)? {
            b"data" => Some(Field::Data),
            b"event" => Some(Field::Event),
            b"id" => Some(Field::Id),
            b"retry" => Some(Field::Retry),
            _ => None,
        }
    }
}

fn end_of_line(bytes: &[u8]) -> usize {
    memchr2(CR, LF, bytes).unwrap_or(bytes.len())
}

/// Appends `bytes` without allocating more than `limit`. Returns false if they do not fit.
fn extend(buffer: &mut Vec<u8>, bytes: &[u8], limit: usize) -> bool {
    let length = buffer.len().saturating_add(bytes.len());
    if length > limit {
        return false;
    }
    if length > buffer.capacity() {
        let wanted = buffer.capacity().saturating_mul(2).clamp(length, limit);
        buffer.reserve_exact(wanted - buffer.len());
    }
    buffer.extend_from_slice(bytes);
    true
}

/// Parses a number that consists only of digits. A number that is too large becomes `u64::MAX`.
fn milliseconds(digits: &[u8]) -> Option<Duration> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0_u64, |value, digit| {
        value.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    });
    Some(Duration::from_millis(value))
}

fn text(bytes: Vec<u8>) -> String {
    let lossy =
        |error: std::string::FromUtf8Error| String::from_utf8_lossy(error.as_bytes()).into_owned();
    String::from_utf8(bytes).unwrap_or_else(lossy)
}
