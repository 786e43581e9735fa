//! The server's record of the client that may resume a session.

use std::collections::VecDeque;

use super::{Hello, Position, Refusal, Secret, SessionId, Welcome};

/// How many secrets that the client may not have seen are remembered. Older ones are dropped.
const MAX_OFFERS: usize = 8;

/// The server's record of one session: its owner, and the secrets that resume it.
///
/// Each connection has a new secret. If the connection breaks early, the client may never see it, so the
/// previous secret remains valid until a frame arrives that only a client that has seen the last welcome
/// can have sent. A delayed greeting from a connection that the client has abandoned may arrive after
/// the greeting of a newer connection, so the secrets offered in between also remain valid.
#[derive(Clone, Debug)]
pub struct Lease<P> {
    session: SessionId,
    principal: P,
    /// The last secret that the client has used, or has proven to have seen, with its epoch.
    proven: (Secret, u64),
    /// The secrets of later welcomes, which the client may not have seen. The last secret is that of the
    /// current connection.
    offered: VecDeque<(Secret, u64)>,
    epoch: u64,
}

impl<P: PartialEq> Lease<P> {
    /// Creates a new session for `principal`. Returns it with its first welcome.
    pub fn new(session: SessionId, principal: P, secret: Secret) -> (Self, Welcome) {
        let welcome =
            Welcome { session, secret: secret.clone(), epoch: 1, position: Position::default() };
        (
            Self { session, principal, proven: (secret, 1), offered: VecDeque::new(), epoch: 1 },
            welcome,
        )
    }

    /// Checks whether this greeting may resume the session. Changes no state.
    ///
    /// # Errors
    /// The reason for refusing the greeting.
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

    /// Resumes the session for a client whose greeting passes [`check`](Self::check). The epoch
    /// increases, which fences off the previous connection. `secret` is for resuming the session on the
    /// next connection.
    ///
    /// # Errors
    /// The same as [`check`](Self::check). On error, nothing has changed.
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

    /// Records that a frame was received over the connection of the last welcome. The client has seen its
    /// secret, so older ones become invalid. Do not call this for frames of older connections.
    pub fn seen(&mut self) {
        if let Some(last) = self.offered.pop_back() {
            self.proven = last;
            self.offered.clear();
        }
    }

    /// Returns the session's id.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Returns the session's owner.
    pub fn principal(&self) -> &P {
        &self.principal
    }

    /// Returns the epoch: the number of the session's last connection.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}
