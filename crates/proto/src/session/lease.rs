//! What the server knows of who may resume a session.

use std::collections::VecDeque;

use super::{Hello, Position, Refusal, Secret, SessionId, Welcome};

/// So many welcomes are remembered that the client may have seen or not; of more, the last.
const MAX_OFFERS: usize = 8;

/// The server's knowledge of one session: whose it is, and with what it is resumed.
///
/// Each connection gets a secret of its own. The client may never have seen the last one, if its
/// connection broke first: so the one before stays valid until a frame came that only who has seen
/// the last welcome can have sent. A greeting that was long on its way, from a connection that the
/// client gave up, may even come behind the one that was welcomed: so the offers between stay valid
/// as long.
#[derive(Clone, Debug)]
pub struct Lease<P> {
    session: SessionId,
    principal: P,
    /// The last secret that the client has shown, or shown to have seen.
    proven: (Secret, u64),
    /// Those of the welcomes since, none of which the client has shown to have seen. The last is
    /// that of the connection there is.
    offered: VecDeque<(Secret, u64)>,
    epoch: u64,
}

impl<P: PartialEq> Lease<P> {
    /// A new session of `principal`. Gives its first welcome.
    pub fn new(session: SessionId, principal: P, secret: Secret) -> (Self, Welcome) {
        let welcome =
            Welcome { session, secret: secret.clone(), epoch: 1, position: Position::default() };
        (
            Self { session, principal, proven: (secret, 1), offered: VecDeque::new(), epoch: 1 },
            welcome,
        )
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
        let mut known = std::iter::once(&self.proven).chain(&self.offered);
        match known.find(|(known, _)| known.matches(secret)) {
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
        let is_shown = |(offered, _): &&_| shown.is_some_and(|shown| shown.matches(offered));
        if let Some(offered) = self.offered.iter().find(is_shown).cloned() {
            self.proven = offered;
            self.offered.clear();
        }
        if self.offered.len() == MAX_OFFERS {
            self.offered.pop_front();
        }
        self.epoch += 1;
        self.offered.push_back((secret.clone(), self.epoch));
        Ok(Welcome { session: self.session, secret, epoch: self.epoch, position })
    }

    /// A frame came over the connection of the last welcome: the client has seen its secret, and those
    /// before are worth nothing any more. One over an older connection shows nothing.
    pub fn seen(&mut self) {
        if let Some(last) = self.offered.pop_back() {
            self.proven = last;
            self.offered.clear();
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
