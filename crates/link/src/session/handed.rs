//! The server's connector, to which the acceptor passes the connections of a session.

use std::sync::Weak;
use std::time::Duration;

use tieline_proto::session::{Frame, Refusal, Welcome};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, DynConnector, ErrorKind, LostBy, Operation,
    Receiver, SenderExt, TransportError, from_now,
};
use tokio::time::{sleep_until, timeout};

use super::refuse::refuse;
use super::shared_session::SharedSession;
use super::state::{Offer, SessionState};

/// The server's connector, which waits for the client to connect.
pub(super) struct Handed {
    pub(super) shared: Weak<SharedSession>,
}

impl Handed {
    async fn connect(&self) -> Result<BoxChannel, TransportError> {
        let gone =
            || TransportError::new(ErrorKind::Closed(CloseReason::ByPeer), Operation::Accept);
        let shared = self.shared.upgrade().ok_or_else(gone)?;
        let (grace, limit) = (shared.options.grace, shared.options.handshake_timeout);
        let deadline = from_now(grace);
        loop {
            let (granted, usual, offered, is_first) = {
                let mut state = shared.state();
                let Some(server) = state.server() else { return Err(gone()) };
                let is_first = server.is_new();
                let (offer, offered) = server.take_offer();
                let usual = offer.as_ref().and_then(|offer| offer.usual);
                let granted = offer.map(|offer| shared.grant(&mut state, offer));
                (granted, usual, offered, is_first)
            };
            match granted {
                None => {}
                Some(Ok((line, welcome))) => {
                    let control = line.control().clone();
                    let (mut sender, mut receiver) = line.split();
                    if let Some(usual) = usual {
                        receiver.limit_to(usual);
                    }
                    let welcome = Frame::Welcome(welcome).to_bytes();
                    if let Ok(Ok(())) = timeout(limit, sender.send(welcome)).await {
                        return Ok(BoxChannel::from_parts(sender, receiver, control));
                    }
                    if is_first {
                        return Err(gone());
                    }
                }
                Some(Err((line, refusal))) => refuse(line, limit, refusal, "").await,
            }
            tokio::select! {
                () = offered.notified() => {}
                () = sleep_until(deadline) => {
                    shared.expired(grace);
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

impl SharedSession {
    /// Begins or resumes the session on an offered connection.
    fn grant(
        &self,
        state: &mut SessionState,
        offer: Offer,
    ) -> Result<(BoxChannel, Welcome), (BoxChannel, Refusal)> {
        match state.grant(&offer) {
            Ok((welcome, received)) => {
                self.resumed(state, received);
                Ok((offer.line, welcome))
            }
            Err(refusal) => Err((offer.line, refusal)),
        }
    }

    /// Ends a session that was not resumed in time. This runs in the session's task, which need not be
    /// woken.
    fn expired(&self, grace: Duration) {
        let mut state = self.state();
        let lost = state.lost(LostBy::Expired(grace));
        state.doom(lost);
    }
}

impl DynConnector for Handed {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(self.connect())
    }
}
