//! The server's part of the handshake, and the acceptor of sessions.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::Duration;

use tieline_proto::session::{
    Frame, LARGEST_GREETING, Lease, Malformed, Refusal, Secret, SessionId,
};
use tieline_transport::{
    Acceptor, BoxChannel, BoxFuture, Channel, CloseReason, Control, DynAcceptor, Endpoint,
    ErrorKind, Incoming, Operation, Owner, Receiver, ReceiverExt, TransportError,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::assemble::{Session, assemble};
use super::handed::Handed;
use super::options::{LineOptions, SessionOptions};
use super::refuse::{refuse, send_and_close};
use super::shared_session::SharedSession;
use super::state::{Offer, OnOver, Role, ServerRole, random};
use super::table::{NoReturn, Table};
use crate::lock::lock;

/// How many handshakes may run at once; further connections wait to be accepted.
const HANDSHAKES: usize = 256;
/// The response to clients that connect without requesting a session.
const HOW_TO_CONNECT: &str =
    "this listener accepts only sessions; connect with resume+ or --resume";
/// How long to wait after accepting a connection has failed.
const PAUSE: Duration = Duration::from_millis(50);

/// An [`Acceptor`] of sessions: it returns each session when it begins, and passes later connections to the
/// session that they resume.
///
/// A task accepts the connections, so that sessions are resumed even while no task accepts new ones.
/// Dropping this stops listening; existing sessions keep their current connections.
pub struct Sessions {
    arrivals: mpsc::Receiver<Result<Session, TransportError>>,
    endpoint: Endpoint,
    /// The future that the task polls. It is stored here so that dropping `Sessions` ends it at once.
    keeping: Arc<Mutex<Option<BoxFuture<'static, ()>>>>,
    task: AbortHandle,
    table: Weak<Table>,
}

/// A handle that returns why an acceptor's sessions failed, as their consumers have reported it
/// ([`Control::report_at_close`]). The session protocol carries only the text that clients may know.
#[derive(Clone)]
pub struct SessionFailures(Weak<Table>);

impl SessionFailures {
    /// Returns why this session failed, with at most 4 KiB of its program's stderr if the session is over.
    /// Returns `None` if it did not fail or this is not known (yet), if the session has been over for longer
    /// than the grace period, or if it belongs to another owner.
    pub fn get(&self, session: SessionId, owner: &Owner) -> Option<CloseReason> {
        self.0.upgrade()?.failure(session, owner)
    }
}

impl Sessions {
    /// Accepts sessions over the connections of `acceptor`, which must use the framing `length-prefix`,
    /// with a message limit that is [`OVERHEAD`](super::OVERHEAD) bytes above that of the session.
    /// Requires a tokio runtime.
    pub fn new(acceptor: Box<dyn DynAcceptor>, options: SessionOptions, line: LineOptions) -> Self {
        let endpoint = acceptor.endpoint().clone().resumable();
        // The queue has room for every possible session, so that one that waits to be accepted never blocks
        // the resumption of another.
        let places = options.max_sessions.clamp(1, Semaphore::MAX_PERMITS);
        let (arrived, arrivals) = mpsc::channel(places);
        let table = Arc::new(Table::default());
        let known = Arc::downgrade(&table);
        let limiter = HandshakeLimiter { table, options: options.as_server(), line, arrived };
        let keeping: BoxFuture<'static, ()> = Box::pin(limiter.keep(acceptor));
        let keeping = Arc::new(Mutex::new(Some(keeping)));
        let kept = keeping.clone();
        let task = tokio::spawn(poll_fn(move |cx| match &mut *lock(&kept) {
            Some(keeping) => keeping.as_mut().poll(cx),
            None => Poll::Ready(()),
        }));
        Self { arrivals, endpoint, keeping, task: task.abort_handle(), table: known }
    }

    /// Returns a handle to ask why sessions failed.
    pub fn failures(&self) -> SessionFailures {
        SessionFailures(self.table.clone())
    }
}

impl Acceptor for Sessions {
    type Channel = Session;

    async fn accept(&mut self) -> Result<Session, TransportError> {
        match self.arrivals.recv().await {
            Some(arrival) => arrival,
            None => {
                let kind = ErrorKind::Closed(CloseReason::ByUs);
                Err(TransportError::new(kind, Operation::Accept).at(&self.endpoint))
            }
        }
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        let keeping = lock(&self.keeping).take();
        drop(keeping);
        self.task.abort();
    }
}

/// The task that accepts connections and performs their handshakes, a limited number at a time.
struct HandshakeLimiter {
    table: Arc<Table>,
    options: SessionOptions,
    line: LineOptions,
    arrived: mpsc::Sender<Result<Session, TransportError>>,
}

impl HandshakeLimiter {
    async fn keep(self, mut acceptor: Box<dyn DynAcceptor>) {
        let limiter = Arc::new(self);
        let mut handshakes = JoinSet::new();
        let mut resting = None;
        loop {
            let is_ready = handshakes.len() < HANDSHAKES && resting.is_none();
            let rest = resting;
            tokio::select! {
                accepted = acceptor.accept(), if is_ready => match accepted {
                    Ok(line) => {
                        let limiter = limiter.clone();
                        handshakes.spawn(async move { limiter.handshake(line).await });
                    }
                    Err(error) => {
                        // The caller of `accept` handles the error. Without a caller it is dropped.
                        let _ = limiter.arrived.try_send(Err(error));
                        resting = Some(Instant::now() + PAUSE);
                    }
                },
                Some(_) = handshakes.join_next() => {}
                () = sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => {
                    resting = None;
                }
            }
        }
    }

    /// Performs the handshake on a new connection.
    async fn handshake(&self, line: BoxChannel) {
        let control = line.control().clone();
        let (sender, mut receiver) = line.split();
        let limit = self.options.handshake_timeout;
        let usual = receiver.limit_to(LARGEST_GREETING);
        let greeting = match timeout(limit, receiver.recv()).await {
            Ok(Incoming::Message(greeting)) => Some(greeting),
            Ok(Incoming::Fault(_)) => None,
            Ok(Incoming::End(CloseReason::Protocol(_) | CloseReason::Truncated(_))) => None,
            // The client has ended its output without a greeting, and may be waiting for a response.
            Ok(Incoming::End(CloseReason::ByPeer)) if control.capabilities().half_close => None,
            // The client has disconnected or is silent. Sending a refusal could take another timeout.
            Ok(_) | Err(_) => return,
        };
        let line = BoxChannel::from_parts(sender, receiver, control.clone());
        let Some(greeting) = greeting else {
            let endpoint = control.endpoint().clone().resumable();
            tracing::info!(%endpoint, "refused a client that has not asked for a session: {HOW_TO_CONNECT}");
            // A client that reads lines receives this as one line: the frame's head contains no newline.
            return refuse(line, limit, Refusal::Unasked, &format!("{HOW_TO_CONNECT}\n")).await;
        };
        let hello = match Frame::decode(greeting) {
            Ok(Frame::Hello(hello)) => hello,
            Ok(_) => return refuse(line, limit, Refusal::Malformed, "not a greeting").await,
            Err(problem) => {
                let refusal = match problem {
                    Malformed::Version(_) => Refusal::Version,
                    _ => Refusal::Malformed,
                };
                return refuse(line, limit, refusal, &problem.to_string()).await;
            }
        };
        let owner = Owner::of(&control);
        let resumed = hello.resumes.as_ref().map(|(id, ..)| *id);
        let offer = Offer { line, usual, hello };
        let offered = match resumed {
            None => self.begin(offer, owner, &control).await,
            Some(id) => self.resume(id, offer, &owner).await,
        };
        if let Err((line, NoReturn { refusal, text })) = offered {
            let endpoint = control.endpoint().clone().resumable();
            tracing::info!(%endpoint, "refused a session: {refusal}");
            refuse(line, limit, refusal, &text).await;
        }
    }

    /// Passes a connection to the session that it resumes. If that has ended, sends its last frames.
    async fn resume(
        &self,
        id: SessionId,
        offer: Offer,
        owner: &Owner,
    ) -> Result<(), (BoxChannel, NoReturn)> {
        let live = lock(&self.table.live).get(&id).and_then(Weak::upgrade);
        let offer = match live {
            Some(session) => match hand_over(&session, offer, owner) {
                Ok(()) => return Ok(()),
                // It has ended in the meantime.
                Err((offer, Refusal::Unknown)) => *offer,
                Err((offer, refusal)) => return Err((offer.line, refusal.into())),
            },
            None => offer,
        };
        let Offer { line, usual, hello } = offer;
        match self.table.last_frames(&hello, owner) {
            Ok(frames) => {
                let control = line.control().clone();
                let (sender, mut receiver) = line.split();
                if let Some(usual) = usual {
                    receiver.limit_to(usual);
                }
                let line = BoxChannel::from_parts(sender, receiver, control);
                send_and_close(line, self.options.handshake_timeout, frames).await;
                Ok(())
            }
            Err(no_return) => Err((line, no_return)),
        }
    }

    async fn begin(
        &self,
        offer: Offer,
        owner: Owner,
        control: &Control,
    ) -> Result<(), (BoxChannel, NoReturn)> {
        // Sessions that have ended already also take a place until they are accepted.
        let Ok(place) = self.arrived.try_reserve() else {
            return Err((offer.line, Refusal::Full.into()));
        };
        let (Some(id), Some(secret)) = (random(), random()) else {
            let endpoint = control.endpoint().clone().resumable();
            tracing::error!(%endpoint, "cannot get random bytes from the operating system");
            return Err((offer.line, Refusal::Full.into()));
        };
        let id = SessionId(id);
        if !self.table.reserve(id, self.options.max_sessions) {
            return Err((offer.line, Refusal::Full.into()));
        }
        let (table, grace) = (Arc::downgrade(&self.table), self.options.grace);
        let on_over: OnOver = Box::new(move |lease, remains, failure| {
            if let Some(table) = table.upgrade() {
                table.over(lease, remains, failure, grace);
            }
        });
        let server = ServerRole::new(Lease::new(id, owner, Secret(secret)), offer, on_over);
        let role = Role::Server(Box::new(server));
        let shared = Arc::new(SharedSession::new(role, self.options, self.line.clone()));
        lock(&self.table.live).insert(id, Arc::downgrade(&shared));
        let handed = Handed { shared: Arc::downgrade(&shared) };
        // This fails if the client has disconnected already.
        if let Ok(session) = assemble(shared, Arc::new(handed)).await {
            place.send(Ok(session));
        }
        Ok(())
    }
}

/// Passes a connection to the session that it resumes, if its client is authorized.
fn hand_over(
    session: &Arc<SharedSession>,
    offer: Offer,
    owner: &Owner,
) -> Result<(), (Box<Offer>, Refusal)> {
    let replaced = {
        let mut state = session.state();
        let replaced = state.offer(offer, owner)?;
        session.fence(&mut state, CloseReason::ByPeer);
        replaced
    };
    drop(replaced);
    Ok(())
}
