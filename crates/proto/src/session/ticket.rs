//! What the client knows of its session: how to ask for it again.

use super::{Hello, Position, Secret, SessionId, Violation, Welcome};

/// The client's right to resume its session.
#[derive(Clone, Debug)]
pub struct Ticket {
    session: SessionId,
    secret: Secret,
    epoch: u64,
}

impl Ticket {
    /// The greeting that asks for a new session.
    pub fn ask() -> Hello {
        Hello { resumes: None, position: Position::default() }
    }

    /// The first welcome of a session.
    ///
    /// # Errors
    /// It is not the first, or the server has received what was never sent.
    pub fn granted(welcome: &Welcome) -> Result<Self, Violation> {
        if welcome.epoch != 1 || welcome.position != Position::default() {
            return Err(Violation::Handshake);
        }
        let Welcome { session, secret, epoch, .. } = welcome.clone();
        Ok(Self { session, secret, epoch })
    }

    /// The greeting that asks for the session again, from one who stands at `position`.
    pub fn present(&self, position: Position) -> Hello {
        Hello { resumes: Some((self.session, self.secret.clone(), self.epoch)), position }
    }

    /// The session was granted again: the next time it is asked for with another secret.
    ///
    /// # Errors
    /// It is another session, or a connection before the one that was.
    pub fn renewed(&mut self, welcome: &Welcome) -> Result<(), Violation> {
        if welcome.session != self.session || welcome.epoch <= self.epoch {
            return Err(Violation::Handshake);
        }
        self.secret = welcome.secret.clone();
        self.epoch = welcome.epoch;
        Ok(())
    }

    /// The session's name.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Which connection of the session the last was.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}
