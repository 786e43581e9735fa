//! What the server knows of who may resume a session.

use super::{Hello, Position, Refusal, Secret, SessionId, Welcome};

/// The server's knowledge of one session: whose it is, and with what it is resumed.
///
/// Each connection gets a secret of its own. The client may never have seen the last one, if its
/// connection broke first: so the one before stays valid until a frame came that only who has seen
/// the last welcome can have sent.
#[derive(Clone, Debug)]
pub struct Lease<P> {
    session: SessionId,
    principal: P,
    /// The last secret that the client has shown, or shown to have seen.
    proven: (Secret, u64),
    /// The one of the last welcome, if the client may not have seen it.
    offered: Option<(Secret, u64)>,
    epoch: u64,
}

impl<P: PartialEq> Lease<P> {
    /// A new session of `principal`. Gives its first welcome.
    pub fn new(session: SessionId, principal: P, secret: Secret) -> (Self, Welcome) {
        let welcome =
            Welcome { session, secret: secret.clone(), epoch: 1, position: Position::default() };
        (Self { session, principal, proven: (secret, 1), offered: None, epoch: 1 }, welcome)
    }

    /// Whether this greeting may resume the session. Changes nothing.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, hello: &Hello, principal: &P) -> Result<(), Refusal> {
        let Some((session, secret, epoch)) = &hello.resumes else { return Err(Refusal::Unknown) };
        if *session != self.session {
            return Err(Refusal::Unknown);
        }
        if *principal != self.principal {
            return Err(Refusal::Principal);
        }
        let known = [Some(&self.proven), self.offered.as_ref()];
        let known = known.into_iter().flatten().find(|(known, _)| known.matches(secret));
        match known {
            None => Err(Refusal::Secret),
            Some((_, of)) if of != epoch => Err(Refusal::Epoch),
            Some(_) => Ok(()),
        }
    }

    /// Resumes the session for one whose greeting [passed](Self::check): the connection before is
    /// fenced off, and the next is opened with `secret`.
    ///
    /// # Errors
    /// As [`check`](Self::check); then nothing has changed.
    pub fn resume(
        &mut self,
        hello: &Hello,
        principal: &P,
        secret: Secret,
        position: Position,
    ) -> Result<Welcome, Refusal> {
        self.check(hello, principal)?;
        let shown = hello.resumes.as_ref().map(|(_, secret, _)| secret);
        if let (Some((offered, of)), Some(shown)) = (&self.offered, shown)
            && offered.matches(shown)
        {
            self.proven = (offered.clone(), *of);
        }
        self.epoch += 1;
        self.offered = Some((secret.clone(), self.epoch));
        Ok(Welcome { session: self.session, secret, epoch: self.epoch, position })
    }

    /// A frame came over the connection of the last welcome: the client has seen its secret, and the
    /// one before is worth nothing any more.
    pub fn seen(&mut self) {
        if let Some(offered) = self.offered.take() {
            self.proven = offered;
        }
    }

    /// The session's name.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Whose it is.
    pub fn principal(&self) -> &P {
        &self.principal
    }

    /// Which connection of the session is the last.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}
