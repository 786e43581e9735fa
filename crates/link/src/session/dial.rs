//! The client's part of the handshake.

use std::sync::{Arc, Weak};

use tieline_proto::FrameError;
use tieline_proto::session::{Frame, LARGEST_GREETING, Refusal, Welcome};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, DynConnector, Endpoint, ErrorKind, Incoming,
    Operation, Receiver, ReceiverExt, SenderExt, TransportError,
};

use super::assemble::{Session, assemble};
use super::options::{LineOptions, SessionOptions};
use super::shared_session::SharedSession;
use super::state::Role;

impl Session {
    /// Connects with `connector` and requests a session. The connector's channels must use the framing
    /// `length-prefix`, with a message limit that is [`OVERHEAD`](tieline_proto::session::OVERHEAD)
    /// bytes above that of the session.
    ///
    /// Cancel-safe: a dropped attempt leaves nothing running. Requires a tokio runtime.
    ///
    /// # Errors
    /// The first connection failed, or the other end did not grant a session.
    pub async fn connect(
        connector: Arc<dyn DynConnector>,
        options: SessionOptions,
        line: LineOptions,
    ) -> Result<Self, TransportError> {
        options.validate()?;
        let shared = Arc::new(SharedSession::new(Role::Client(None), options, line));
        let dialing = Dialing { dialer: connector, shared: Arc::downgrade(&shared) };
        assemble(shared, Arc::new(dialing)).await
    }
}

/// How many times a new session is requested if the connection breaks before the response arrives. Each
/// time, a server that has already responded keeps an unused session for its grace period.
const MAX_REQUESTS: usize = 3;

/// The client's connector, which performs the handshake on each connection.
struct Dialing {
    dialer: Arc<dyn DynConnector>,
    shared: Weak<SharedSession>,
}

/// The response to a greeting.
enum Answer {
    Granted(BoxChannel, Box<Welcome>),
    Refused(Refusal, String, Endpoint),
}

impl Dialing {
    async fn greet(
        &self,
        shared: &SharedSession,
        greeting: Frame,
    ) -> Result<Answer, TransportError> {
        let line = self.dialer.connect().await?;
        let control = line.control().clone();
        let endpoint = control.endpoint().clone().resumable();
        let error = |kind| TransportError::new(kind, Operation::Connect).at(&endpoint);
        let (mut sender, mut receiver) = line.split();
        let limit = shared.options.handshake_timeout;
        let usual = receiver.limit_to(LARGEST_GREETING);
        let answer = tokio::time::timeout(limit, async {
            // If the greeting cannot be written, receiving fails with a better reason.
            let _ = sender.send(greeting.to_bytes()).await;
            receiver.recv().await
        });
        let no_session = |problem: String| no_session(problem).at(&endpoint);
        let answer = match answer.await {
            Err(_) => {
                let hint =
                    "try again, or omit `resume+` if the other side does not support sessions";
                return Err(error(ErrorKind::TimedOut(limit)).with_hint(hint));
            }
            Ok(Incoming::Message(answer)) => answer,
            Ok(Incoming::End(CloseReason::Protocol(FrameError::OtherFraming {
                theirs, ..
            }))) => {
                return Err(no_session(format!("the other side uses the framing {theirs}")));
            }
            Ok(Incoming::End(CloseReason::Protocol(
                other @ (FrameError::UnexpectedHttp | FrameError::UnexpectedTls),
            ))) => {
                return Err(TransportError::handshake("session", other.to_string()).at(&endpoint));
            }
            Ok(Incoming::End(reason @ CloseReason::Protocol(_))) => {
                return Err(no_session(format!("the response is not a session frame: {reason}")));
            }
            Ok(Incoming::End(reason)) => return Err(error(ErrorKind::Closed(reason))),
            Ok(_) => return Err(no_session("the response is not a session frame".into())),
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
            Ok(_) => Err(no_session("the response to the greeting is another frame".into())),
            Err(malformed) => Err(no_session(malformed.to_string())),
        }
    }

    async fn connect(&self) -> Result<BoxChannel, TransportError> {
        let gone = || TransportError::new(ErrorKind::Closed(CloseReason::ByUs), Operation::Connect);
        let mut requests_left = MAX_REQUESTS;
        // If the session no longer exists, the second iteration requests a new one.
        for _ in 0..2 {
            let shared = self.shared.upgrade().ok_or_else(gone)?;
            let (greeting, resumes) = shared.state().greeting();
            let answer = loop {
                match self.greet(&shared, Frame::Hello(greeting.clone())).await {
                    // The Link reconnects for an existing session, but it does not retry a first
                    // connection, so a first request is repeated here.
                    Err(error) if !resumes && was_cut(&error) && requests_left > 1 => {
                        tracing::debug!(%error, "the connection broke during the handshake; trying again");
                        requests_left -= 1;
                    }
                    answer => break answer?,
                }
            };
            match answer {
                Answer::Granted(line, welcome) => match shared.welcomed(&welcome) {
                    Ok(()) => return Ok(line),
                    Err(reason) => {
                        shared.state().doom(reason.clone());
                        return Err(TransportError::new(
                            ErrorKind::Closed(reason),
                            Operation::Connect,
                        ));
                    }
                },
                Answer::Refused(refusal, text, _) if resumes && concerns_session(refusal) => {
                    if !shared.state().forget(refusal, text, &shared.options) {
                        break;
                    }
                }
                Answer::Refused(refusal, text, endpoint) => {
                    tracing::debug!(%refusal, text, "the session was refused");
                    let error = match refusal {
                        Refusal::User => {
                            let reason = CloseReason::Protocol(FrameError::UserNotAccepted);
                            TransportError::new(ErrorKind::Closed(reason), Operation::Connect)
                        }
                        Refusal::NoSessions => no_session(refusal.to_string()),
                        _ => TransportError::handshake("session", refusal.to_string()),
                    };
                    return Err(error.retryable(refusal.may_pass()).at(&endpoint));
                }
            }
        }
        Err(gone())
    }
}

/// Returns the error of a client whose server answers its greeting with anything other than a session.
fn no_session(problem: String) -> TransportError {
    TransportError::handshake("session", problem).with_hint(
        "omit `resume+` if the other side does not support sessions (tieline serve --resume)",
    )
}

/// Returns whether a connection was established and broke during the handshake.
fn was_cut(error: &TransportError) -> bool {
    matches!(error.kind(), ErrorKind::Closed(_)) && error.is_retryable()
}

/// Returns whether the refusal concerns the session itself, not the version or a temporary condition.
fn concerns_session(refusal: Refusal) -> bool {
    use Refusal::{Epoch, Gap, NeverSent, Principal, Secret, Unknown};
    matches!(refusal, Unknown | Secret | Principal | Epoch | Gap | NeverSent)
}

impl DynConnector for Dialing {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(self.connect())
    }
}
