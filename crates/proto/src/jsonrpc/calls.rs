//! Matching responses to this side's own calls.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// The id of one of this side's calls: an increasing number that is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

impl CallId {
    /// Parses the id of a response. Returns `None` if it cannot be the id of one of this side's calls.
    pub fn parse(id: &[u8]) -> Option<Self> {
        let canonical = id == b"0" || id.first().is_some_and(|digit| *digit != b'0');
        let digits = canonical && id.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(id).ok().filter(|_| digits)?;
        number.parse().ok().map(Self)
    }

    /// Writes the id to the end of `buffer`, as it appears in a message, and returns it.
    pub fn digits(self, buffer: &mut [u8; 20]) -> &[u8] {
        let mut rest = self.0;
        let mut start = buffer.len();
        for (at, digit) in buffer.iter_mut().enumerate().rev() {
            // The remainder is below ten and fits into a byte.
            *digit = b'0' + (rest % 10) as u8;
            start = at;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        buffer.get(start..).unwrap_or_default()
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The calls in flight, each with a value for the recipient of its response.
#[derive(Debug)]
pub struct Calls<T> {
    last: u64,
    waiting: HashMap<u64, T, BuildHasherDefault<Spread>>,
}

impl<T> Default for Calls<T> {
    fn default() -> Self {
        Self { last: 0, waiting: HashMap::default() }
    }
}

impl<T> Calls<T> {
    /// Adds a call and returns its new id.
    pub fn begin(&mut self, waiting: T) -> CallId {
        self.last += 1;
        self.waiting.insert(self.last, waiting);
        CallId(self.last)
    }

    /// Removes a call because its response was received or the call was abandoned. Returns `None` if no
    /// such call is in flight.
    pub fn end(&mut self, id: CallId) -> Option<T> {
        self.waiting.remove(&id.0)
    }

    /// Returns the value of a call.
    pub fn get(&self, id: CallId) -> Option<&T> {
        self.waiting.get(&id.0)
    }

    /// Returns the value of a call, to change it.
    pub fn get_mut(&mut self, id: CallId) -> Option<&mut T> {
        self.waiting.get_mut(&id.0)
    }

    /// Iterates over all calls in flight.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (CallId, &mut T)> {
        self.waiting.iter_mut().map(|(id, waiting)| (CallId(*id), waiting))
    }

    /// Returns whether a call with this id was ever made. If so, a response to it is late; if not, its id is
    /// unknown.
    pub fn was_made(&self, id: CallId) -> bool {
        (1..=self.last).contains(&id.0)
    }

    /// Removes and returns all calls in flight.
    pub fn end_all(&mut self) -> impl Iterator<Item = (CallId, T)> {
        std::mem::take(&mut self.waiting).into_iter().map(|(id, waiting)| (CallId(id), waiting))
    }

    /// Returns the number of calls in flight.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether no calls are in flight.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// A hasher for call ids. It needs no protection against chosen keys, because this side creates the ids.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The fractional part of the golden ratio spreads consecutive numbers, also in the high bits.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_reused() {
        let mut calls = Calls::default();
        let first = calls.begin("first");
        assert_eq!(calls.end(first), Some("first"));
        let second = calls.begin("second");
        assert_ne!(first, second);
        assert_eq!(calls.end(first), None);
        assert!(calls.was_made(first));
        assert_eq!(calls.end_all().collect::<Vec<_>>(), [(second, "second")]);
        assert!(calls.is_empty());
    }

    #[test]
    fn written_id_parses_back() {
        for id in [0, 1, 9, 10, 12_345, u64::MAX] {
            let mut buffer = [0; 20];
            let digits = CallId(id).digits(&mut buffer);
            assert_eq!(digits, id.to_string().as_bytes());
            assert_eq!(CallId::parse(digits), Some(CallId(id)));
        }
    }

    #[test]
    fn only_ids_in_our_own_form_are_parsed() {
        assert_eq!(CallId::parse(b"17"), Some(CallId(17)));
        for id in ["017", "1.0", "1e1", "-1", "\"1\"", "null", "", "+1", "18446744073709551616"] {
            assert_eq!(CallId::parse(id.as_bytes()), None, "{id}");
        }
        assert!(!Calls::<()>::default().was_made(CallId(1)));
    }
}
