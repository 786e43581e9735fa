//! The client's record of its session, which it needs to resume the session.

use super::{Hello, Position, Secret, SessionId, Violation, Welcome};

/// The client's right to resume its session.
#[derive(Clone, Debug)]
pub struct Ticket {
    session: SessionId,
    secret: Secret,
    epoch: u64,
}

impl Ticket {
    /// Returns the greeting that requests a new session.
    pub fn ask() -> Hello {
        Hello { resumes: None, position: Position::default() }
    }

    /// Creates the ticket from the first welcome of a session.
    ///
    /// # Errors
    /// The welcome is not that of a new session: its epoch is not 1, or its position is not zero.
    pub fn granted(welcome: &Welcome) -> Result<Self, Violation> {
        if welcome.epoch != 1 || welcome.position != Position::default() {
            return Err(Violation::Handshake);
        }
        let Welcome { session, secret, epoch, .. } = welcome.clone();
        Ok(Self { session, secret, epoch })
    }

    /// Returns the greeting that resumes the session at `position`.
    pub fn present(&self, position: Position) -> Hello {
        Hello { resumes: Some((self.session, self.secret.clone(), self.epoch)), position }
    }

    /// Takes the secret for the next resumption from the welcome of a resumed session.
    ///
    /// # Errors
    /// The welcome is that of another session, or its epoch is not above the last one.
    pub fn renewed(&mut self, welcome: &Welcome) -> Result<(), Violation> {
        if welcome.session != self.session || welcome.epoch <= self.epoch {
            return Err(Violation::Handshake);
        }
        self.secret = welcome.secret.clone();
        self.epoch = welcome.epoch;
        Ok(())
    }

    /// Returns the session's id.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Returns the epoch: the number of the session's last connection.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}
