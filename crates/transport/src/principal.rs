//! The identity of an authenticated peer.

use std::fmt;

/// The identity of an authenticated peer as 32 bytes, such as the hash of a token or certificate. Equal
/// values mean the same peer. The server that authenticates the clients creates it. Principals can only
/// be compared, and `Debug` does not show them, because they may be derived from secrets.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Principal([u8; 32]);

impl Principal {
    /// Creates a principal from its 32 bytes.
    pub const fn new(name: [u8; 32]) -> Self {
        Self(name)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Principal(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_can_be_compared_but_are_not_shown() {
        let (one, other) = (Principal::new([7; 32]), Principal::new([8; 32]));
        assert!(one == Principal::new([7; 32]) && one != other);
        assert_eq!(format!("{one:?}"), "Principal(…)");
    }
}
