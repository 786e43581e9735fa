//! The owner of a resource that a connection uses.

use crate::PeerIdentity;
use crate::control::Control;
use crate::principal::Principal;

/// The owner of a resource: the user that the operating system reports and the principal that was
/// authenticated, if they exist. Two owners are equal only if both parts are equal.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// The user.
    pub user: Option<PeerIdentity>,
    /// The authenticated principal.
    pub principal: Option<Principal>,
}

impl Owner {
    /// Returns the owner of a connection.
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
