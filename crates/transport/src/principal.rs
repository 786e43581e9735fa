//! Who was authenticated on the way in.

use std::fmt;

use crate::{Control, PeerIdentity};

/// Who was authenticated, by a name of thirty-two bytes: the same for the same one, another for each other,
/// as the hash of a token or of a certificate is. Whoever lets clients in gives it, and it is only
/// compared: it shows itself to nobody, because what it was made of may be a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Principal([u8; 32]);

impl Principal {
    /// The one of this name.
    pub const fn new(name: [u8; 32]) -> Self {
        Self(name)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Principal(…)")
    }
}

/// Whose something is: the user that the operating system vouches for, and who was authenticated on the way
/// in, where there are such. Two are one only if both are.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// The user.
    pub user: Option<PeerIdentity>,
    /// Who was authenticated.
    pub principal: Option<Principal>,
}

impl Owner {
    /// Who is behind a connection.
    pub fn of(connection: &Control) -> Self {
        Self { user: connection.peer(), principal: connection.principal() }
    }
}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        let is_same_user = match (&self.user, &other.user) {
            (Some(one), Some(other)) => one.is_same_user(other),
            (None, None) => true,
            _ => false,
        };
        is_same_user && self.principal == other.principal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_compared_and_not_shown() {
        let (one, other) = (Principal::new([7; 32]), Principal::new([8; 32]));
        assert!(one == Principal::new([7; 32]) && one != other);
        assert_eq!(format!("{one:?}"), "Principal(…)");
    }
}
