//! The server's part of the handshake, and the sessions there are.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::Duration;

use tieline_proto::session::{
    Farewell, Frame, LARGEST_GREETING, Lease, Malformed, Refusal, Secret, SessionId, Welcome,
};
use tieline_transport::{
    Acceptor, BoxChannel, BoxFuture, Channel, CloseReason, Control, DynAcceptor, Endpoint,
    ErrorKind, Incoming, Operation, Owner, Receiver, ReceiverExt, SenderExt, TransportError,
};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::assemble::assemble;
use super::core::{Offer, Role};
use super::server::{Handed, Server, Table, random};
use super::shared::Shared;
use super::{LineOptions, Session, SessionOptions};
use crate::shared::lock;

/// So many connections may be at their handshake at once; more wait to be accepted.
const HANDSHAKES: usize = 256;
/// What is said to whoever connects without asking for a session.
const HOW_TO_CONNECT: &str = "a client here connects with resume+, or --resume";
/// How long a failing acceptor is left alone.
const PAUSE: Duration = Duration::from_millis(50);

/// An [`Acceptor`] of sessions: it yields each when it begins, and hands its later connections to it.
///
/// A task of its own takes connections, so that a session is resumed whether or not anybody accepts.
/// Dropping it stops listening; the sessions there are go on with the connections they have.
pub struct Sessions {
    arrivals: mpsc::Receiver<Result<Session, TransportError>>,
    endpoint: Endpoint,
    /// What the task polls. It is dropped with this, and not when the runtime comes round to it.
    keeping: Arc<Mutex<Option<BoxFuture<'static, ()>>>>,
    task: AbortHandle,
}

impl Sessions {
    /// Takes the connections of `acceptor`, which speak the framing `length-prefix`, with room for
    /// [`OVERHEAD`](super::OVERHEAD) bytes beside a message. Needs a tokio runtime.
    pub fn new(acceptor: Box<dyn DynAcceptor>, options: SessionOptions, line: LineOptions) -> Self {
        let endpoint = acceptor.endpoint().clone().resumable();
        // One that waits to be accepted must not keep another from being resumed: there is a place for
        // each that may be.
        let places = options.max_sessions.clamp(1, Semaphore::MAX_PERMITS);
        let (arrived, arrivals) = mpsc::channel(places);
        let table = Arc::new(Table::default());
        let limiter = HandshakeLimiter { table, options: options.as_server(), line, arrived };
        let keeping: BoxFuture<'static, ()> = Box::pin(limiter.keep(acceptor));
        let keeping = Arc::new(Mutex::new(Some(keeping)));
        let kept = keeping.clone();
        let task = tokio::spawn(poll_fn(move |cx| match &mut *lock(&kept) {
            Some(keeping) => keeping.as_mut().poll(cx),
            None => Poll::Ready(()),
        }));
        Self { arrivals, endpoint, keeping, task: task.abort_handle() }
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

/// Where connections come in.
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
                        handshakes.spawn(async move { limiter.meet(line).await });
                    }
                    Err(error) => {
                        // Whoever accepts says so, and there may be nobody.
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

    /// Hears what somebody who has connected wants.
    async fn meet(&self, line: BoxChannel) {
        let control = line.control().clone();
        let (sender, mut receiver) = line.split();
        let limit = self.options.handshake_timeout;
        let usual = receiver.limit_to(LARGEST_GREETING);
        let greeting = match timeout(limit, receiver.recv()).await {
            Ok(Incoming::Message(greeting)) => Some(greeting),
            Ok(Incoming::Fault(_)) => None,
            Ok(Incoming::End(CloseReason::Protocol(_) | CloseReason::Truncated(_))) => None,
            // It has ended its input without a word, and may wait for an answer.
            Ok(Incoming::End(CloseReason::ByPeer)) if control.capabilities().half_close => None,
            // It left without a word, or says nothing: to wait until it has read ours is to wait as long again.
            Ok(_) | Err(_) => return,
        };
        let line = BoxChannel::from_parts(sender, receiver, control.clone());
        let Some(greeting) = greeting else {
            let endpoint = control.endpoint().clone().resumable();
            tracing::info!(%endpoint, "somebody has not asked for a session; {HOW_TO_CONNECT}");
            // Who reads lines gets it as one: neither a frame's head nor this code is the end of one.
            return refuse(line, limit, Refusal::Unasked, &format!("{HOW_TO_CONNECT}\n")).await;
        };
        let hello = match Frame::decode(greeting) {
            Ok(Frame::Hello(hello)) => hello,
            Ok(_) => return refuse(line, limit, Refusal::Malformed, "no greeting").await,
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
            Some(id) => {
                let known = lock(&self.table.live).get(&id).and_then(Weak::upgrade);
                match known {
                    Some(session) => hand_over(&session, offer, &owner),
                    None => match self.table.epitaph(&offer.hello, &owner) {
                        Some(welcome) => return farewell(offer.line, limit, welcome).await,
                        None => Err((offer.line, Refusal::Unknown)),
                    },
                }
            }
        };
        if let Err((line, refusal)) = offered {
            let endpoint = control.endpoint().clone().resumable();
            tracing::info!(%endpoint, "a session was refused: {refusal}");
            refuse(line, limit, refusal, "").await;
        }
    }

    async fn begin(
        &self,
        offer: Offer,
        owner: Owner,
        control: &Control,
    ) -> Result<(), (BoxChannel, Refusal)> {
        if lock(&self.table.live).len() >= self.options.max_sessions {
            return Err((offer.line, Refusal::Full));
        }
        // Those that have come and gone take a place, too, until somebody accepts.
        let Ok(place) = self.arrived.try_reserve() else { return Err((offer.line, Refusal::Full)) };
        let (Some(id), Some(secret)) = (random(), random()) else {
            let endpoint = control.endpoint().clone().resumable();
            tracing::error!(%endpoint, "the operating system gives no random bytes");
            return Err((offer.line, Refusal::Full));
        };
        let id = SessionId(id);
        let (lease, welcome) = Lease::new(id, owner, Secret(secret));
        let server = Server {
            lease,
            first: Some(welcome),
            offer: Some(offer),
            offered: Arc::new(Notify::new()),
            table: Arc::downgrade(&self.table),
            grace: self.options.grace,
        };
        let shared =
            Arc::new(Shared::new(Role::Server(Box::new(server)), self.options, self.line.clone()));
        lock(&self.table.live).insert(id, Arc::downgrade(&shared));
        let handed = Handed { shared: Arc::downgrade(&shared) };
        // It fails if the client is gone already.
        if let Ok(session) = assemble(shared, Arc::new(handed)).await {
            place.send(Ok(session));
        }
        Ok(())
    }
}

/// Hands a connection to the session that it is for, if whoever made it may have it.
fn hand_over(
    session: &Arc<Shared>,
    offer: Offer,
    owner: &Owner,
) -> Result<(), (BoxChannel, Refusal)> {
    let replaced = {
        let mut core = session.core();
        let position = offer.hello.position;
        let fits = core.machine.check(position);
        let Role::Server(server) = &mut core.role else {
            return Err((offer.line, Refusal::Unknown));
        };
        if let Err(refusal) = server.lease.check(&offer.hello, owner).and(fits) {
            return Err((offer.line, refusal));
        }
        server.offered.notify_one();
        let replaced = server.offer.replace(offer);
        session.fence(&mut core, CloseReason::ByPeer);
        replaced
    };
    drop(replaced);
    Ok(())
}

/// Says once more that the session is over, and how it stood.
async fn farewell(line: BoxChannel, limit: Duration, welcome: Welcome) {
    let received = welcome.position.received;
    let bye = Frame::Bye(Farewell { received, text: String::new() });
    say(line, limit, [Frame::Welcome(welcome), bye]).await;
}

/// Says why not, and leaves. Who does not read it is not waited for.
pub(super) async fn refuse(line: BoxChannel, limit: Duration, refusal: Refusal, text: &str) {
    say(line, limit, [Frame::Refused { refusal, text: text.to_owned() }]).await;
}

/// Says this, and no more.
async fn say(line: BoxChannel, limit: Duration, frames: impl IntoIterator<Item = Frame>) {
    let (mut sender, mut receiver) = line.split();
    let _ = timeout(limit, async {
        for frame in frames {
            let _ = sender.send(frame.to_bytes()).await;
        }
        let _ = sender.close().await;
        // What is unread when a connection is closed may cost the other side what we said.
        while let Incoming::Message(_) = receiver.recv().await {}
    })
    .await;
}
