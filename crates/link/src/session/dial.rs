//! The client's part of the handshake.

use std::sync::{Arc, Weak};

use tieline_proto::session::{Frame, LARGEST_GREETING, Refusal, Welcome};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, DynConnector, Endpoint, ErrorKind, Incoming,
    Operation, Receiver, ReceiverExt, SenderExt, TransportError,
};

use super::assemble::assemble;
use super::core::Role;
use super::shared::Shared;
use super::{LineOptions, Session, SessionOptions};

pub(super) async fn connect(
    dialer: Arc<dyn DynConnector>,
    options: SessionOptions,
    line: LineOptions,
) -> Result<Session, TransportError> {
    let shared = Arc::new(Shared::new(Role::Client(None), options, line));
    let dialing = Dialing { dialer, shared: Arc::downgrade(&shared) };
    assemble(shared, Arc::new(dialing)).await
}

/// So often it is asked for a new session where the connection was cut before the answer came. Each
/// time, a server that has answered keeps a session for its grace that nobody knows of.
const ASKS: usize = 3;

/// Connects, and greets: what it gives is a connection of the session.
struct Dialing {
    dialer: Arc<dyn DynConnector>,
    shared: Weak<Shared>,
}

/// How the other side has answered.
enum Answer {
    Granted(BoxChannel, Box<Welcome>),
    Refused(Refusal, String, Endpoint),
}

impl Dialing {
    async fn greet(&self, shared: &Shared, greeting: Frame) -> Result<Answer, TransportError> {
        let line = self.dialer.connect().await?;
        let control = line.control().clone();
        let endpoint = control.endpoint().clone().resumable();
        let error = |kind| TransportError::new(kind, Operation::Connect).at(&endpoint);
        let (mut sender, mut receiver) = line.split();
        let limit = shared.options.handshake_timeout;
        let usual = receiver.limit_to(LARGEST_GREETING);
        let answer = tokio::time::timeout(limit, async {
            // If it cannot be written, the answer says more.
            let _ = sender.send(greeting.to_bytes()).await;
            receiver.recv().await
        });
        let no_session = |problem: String| {
            TransportError::handshake("session", problem).at(&endpoint).with_hint(
                "omit `resume+` if the other side does not support sessions (tieline serve --resume)",
            )
        };
        let answer = match answer.await {
            Err(_) => {
                let hint = "try again; if the other side is connected to without a session, leave out `resume+`";
                return Err(error(ErrorKind::TimedOut(limit)).with_hint(hint));
            }
            Ok(Incoming::Message(answer)) => answer,
            Ok(Incoming::End(reason @ CloseReason::Protocol(_))) => {
                return Err(no_session(format!("its answer is no frame: {reason}")));
            }
            Ok(Incoming::End(reason)) => return Err(error(ErrorKind::Closed(reason))),
            Ok(_) => return Err(no_session("its answer is no frame".into())),
        };
        match Frame::decode(answer) {
            Ok(Frame::Welcome(welcome)) => {
                if let Some(usual) = usual {
                    receiver.limit_to(usual);
                }
                let line = BoxChannel::from_parts(sender, receiver, control);
                Ok(Answer::Granted(line, Box::new(welcome)))
            }
            Ok(Frame::Refused { refusal, text }) => Ok(Answer::Refused(refusal, text, endpoint)),
            Ok(_) => Err(no_session("it answers the greeting with something else".into())),
            Err(malformed) => Err(no_session(malformed.to_string())),
        }
    }

    async fn connect(&self) -> Result<BoxChannel, TransportError> {
        let gone = || TransportError::new(ErrorKind::Closed(CloseReason::ByUs), Operation::Connect);
        let mut asks_left = ASKS;
        // A session that is not there any more is followed by one that is new.
        for _ in 0..2 {
            let shared = self.shared.upgrade().ok_or_else(gone)?;
            let (greeting, resumes) = shared.greeting();
            let answer = loop {
                match self.greet(&shared, Frame::Hello(greeting.clone())).await {
                    // Who has a session comes again by his Link. Who has none would be turned away for
                    // what one cut has done.
                    Err(error) if !resumes && was_cut(&error) && asks_left > 1 => {
                        tracing::debug!(%error, "cut before there was a session: asked again");
                        asks_left -= 1;
                    }
                    answer => break answer?,
                }
            };
            match answer {
                Answer::Granted(line, welcome) => match shared.welcomed(&welcome) {
                    Ok(()) => return Ok(line),
                    Err(reason) => {
                        shared.core().doom = Some(reason.clone());
                        return Err(TransportError::new(
                            ErrorKind::Closed(reason),
                            Operation::Connect,
                        ));
                    }
                },
                Answer::Refused(refusal, text, _) if resumes && is_about_it(refusal) => {
                    if !shared.forget(refusal, text) {
                        break;
                    }
                }
                Answer::Refused(refusal, text, endpoint) => {
                    tracing::debug!(%refusal, text, "no session");
                    let error = TransportError::handshake("session", refusal.to_string());
                    return Err(error.retryable(refusal.may_pass()).at(&endpoint));
                }
            }
        }
        Err(gone())
    }
}

/// Whether a connection was there, and broke under the greeting.
fn was_cut(error: &TransportError) -> bool {
    matches!(error.kind(), ErrorKind::Closed(_)) && error.is_retryable()
}

/// Whether it is refused because of the session, and not of the moment or the version.
fn is_about_it(refusal: Refusal) -> bool {
    use Refusal::{Epoch, Gap, NeverSent, Principal, Secret, Unknown};
    matches!(refusal, Unknown | Secret | Principal | Epoch | Gap | NeverSent)
}

impl DynConnector for Dialing {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(self.connect())
    }
}
