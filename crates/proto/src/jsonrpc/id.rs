//! Storage for the id of a request in flight.

use std::fmt;
use std::ops::Deref;

/// Ids up to this length need no allocation. Every 64-bit number fits, but a UUID does not.
const SHORT: usize = 22;

/// The id of a request from the peer, as raw JSON, byte for byte. A short id needs no allocation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Id(Kept);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Kept {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

impl From<&[u8]> for Id {
    fn from(id: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..id.len()), u8::try_from(id.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(id);
                Self(Kept::Short { length, bytes })
            }
            _ => Self(Kept::Long(id.into())),
        }
    }
}

impl Deref for Id {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kept::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Kept::Long(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_of_any_length_is_stored_unchanged() {
        for length in 0..100 {
            let id = vec![b'7'; length];
            let kept = Id::from(&id[..]);
            assert_eq!(&*kept, &id[..]);
            assert_eq!(matches!(kept.0, Kept::Short { .. }), length <= SHORT);
        }
        assert!(size_of::<Id>() <= 24);
    }
}
