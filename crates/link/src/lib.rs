//! Lines that reconnect, resumable sessions, clients, pools of lines, circuit breakers and health checks.
//!
//! ```text
//!                    Link: a Channel like any other
//!   LinkSender ───▶ ┌───────────┐ ┌───────────┐ ┌───────────┐
//!                   │  line 1   │ │  line 2   │ │  line 3   │ ── Connector: a child, a server
//!   LinkReceiver ◀─ └───────────┘ └───────────┘ └───────────┘
//!                  Message, … ▲ Reset{2} Message, … ▲ Reset{3} …              End(reason)
//!   LineStates     ◀─  Connected{1} Backoff Connecting Connected{2} …     Closed{by_us, reason}
//! ```
//!
//! A [`Link`] holds one line at a time. When the line is lost, the link ends its remainder, waits as its
//! [`Recovery`] specifies, and connects another line. Its receiver then returns
//! [`Incoming::Reset`](tieline_transport::Incoming::Reset), because the new peer has no state.
//! Everything else uses a link like any channel: a JSON-RPC peer fails the calls in flight at once and
//! repeats its handshake; a bridge answers the requests that the lost line left open.
//!
//! ```
//! use std::sync::Arc;
//! use tieline_link::{Link, LinkOptions, LineState};
//! use tieline_transport::{Channel, Endpoint, Incoming, Options, ReceiverExt, Registry, SenderExt};
//!
//! # #[cfg(unix)] {
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! // A program that fails after its first line.
//! let program = Endpoint::exec("sh", ["-c", "read line; echo \"received $line\"; exit 1"]);
//! let connector = Registry::new().connector(&program, &Options::default())?;
//! let link = Link::connect(connector.into(), LinkOptions::default()).await?;
//! let mut states = link.states();
//! let (mut sender, mut receiver) = link.split();
//!
//! for word in ["one", "two"] {
//!     sender.send(word).await?;
//!     let Incoming::Message(answer) = receiver.recv().await else { panic!("no answer") };
//!     assert_eq!(answer, format!("received {word}"));
//!     // The program was restarted: start over from here.
//!     let Incoming::Reset(reset) = receiver.recv().await else { panic!("no reset") };
//!     println!("line {} replaces one that was lost: {}", reset.epoch, reset.cause);
//! }
//! assert!(matches!(states.next().await, Some(LineState::Connected { epoch: 3 })));
//! drop((sender, receiver));
//! let last = states.next().await;
//! assert!(matches!(last, Some(LineState::Closed { by_us: true, .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Clients
//!
//! A [`Client`] is created once and can connect and disconnect any number of times. Its [`LineStates`] cover all
//! of its connections.
//!
//! ```
//! use tieline_link::{Client, ClientOptions};
//! use tieline_transport::{Endpoint, ErrorKind, Incoming, Options, ReceiverExt, Registry};
//!
//! # #[cfg(unix)] {
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let endpoint: Endpoint = "exec:cat".parse()?;
//! let options = Options::default();
//! let client = Client::new(&Registry::new(), &endpoint, &options, ClientOptions::default())?;
//! for _ in 0..2 {
//!     let mut messages = client.connect().await?;
//!     client.send("hello").await?;
//!     assert!(matches!(messages.recv().await, Incoming::Message(hello) if hello == "hello"));
//!     client.disconnect().await?;
//! }
//! let error = client.send("late").await.unwrap_err();
//! assert!(matches!(error.kind(), ErrorKind::NotConnected));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Recovery
//!
//! | [`Recovery`] | after | wait | until |
//! |---|---|---|---|
//! | `Restart(policy)`; by default for child processes, on failure | the exits that the policy names | none, 50 ms, 80 ms, … 5 s | five restarts within 10 s, then [`GivenUp`](tieline_transport::CloseReason::GivenUp) with the last exit status and stderr |
//! | `Reconnect(LOCAL)`; by default for `unix:`, `mem:`, loopback addresses and `localhost` | every loss | the same | the link is ended |
//! | `Reconnect(REMOTE)`; by default for everything else | every loss | up to 5 s, 1 s, 1.6 s, … 120 s | the link is ended |
//!
//! The waits after the first one vary by ± 20 %. They start over once a connection has lasted 10 s.
//! Permanent errors (the program does not exist, the user is refused) are not retried; they end the link
//! as [`Unreachable`](tieline_transport::CloseReason::Unreachable). A server that refuses the client for its
//! framing, or speaks another protocol, ends the link as
//! [`Protocol`](tieline_transport::CloseReason::Protocol). The remainder of the old line, such
//! as a child that continues without its stdout, is ended in stages before the next line is connected.
//!
//! # Messages and lost lines
//!
//! | a message | is |
//! |---|---|
//! | sent while there is no line | not queued: the sender waits. Cancelling the wait sends nothing. The wait ends with the next line or with the link; [`Client::send`] also ends it after 30 s |
//! | accepted by a line, but not known to be written when the line was lost | lost: it is counted in [`Reset::lost`](tieline_transport::Reset::lost), and the sender's next flush returns [`Lost`](tieline_transport::SendError::Lost) |
//! | written before the line was lost | in an unknown state, which only the peer knows. Responses received before the loss are delivered before the reset |
//!
//! No message is sent twice. A waiting message may be sent on a new line before the receiver has returned its
//! `Reset`. Code that must first repeat a handshake, as a JSON-RPC peer does, must not leave messages
//! waiting.
//!
//! # Sessions
//!
//! Between two tieline endpoints, no message needs to be lost or in an unknown state: a [`Session`] is
//! built on a Link, numbers its messages, and keeps each until the other end has acknowledged it.
//! [`connector`] and [`listen`] create sessions for endpoints that begin with `resume+`;
//! [`Session::connect`] and [`Sessions`] work with any connector and acceptor.
//!
//! | a message | is |
//! |---|---|
//! | sent while there is no connection | kept, and sent on the next one; the sender waits once 1,024 messages or 8 MiB are kept |
//! | in flight when the connection broke | sent again on the next one if the other end lacks it, and never received twice |
//! | not acknowledged when the session is lost | reported: [`SessionLost`](tieline_transport::SessionLost) says what was delivered |
//!
//! *Within a session every message is delivered once, in order, or the session ends with an error that says
//! what was delivered.* This does not hold across a crash of either end, because sessions are kept in
//! memory. A client whose server has lost the session begins another one, and its receiver returns
//! [`Reset`](tieline_transport::Incoming::Reset).
//!
//! A server keeps a session without a connection for two minutes. A client may resume it with the session's
//! secret, which changes with each connection, if it runs as the user who began the session. A newer
//! connection fences off the older one. A message is acknowledged when it is handed to the consumer, or,
//! with [`SessionConfig::commits`](tieline_proto::session::SessionConfig::commits), when the consumer has
//! [committed](Commits::commit) it.
//!
//! # Ending a link
//!
//! Like any channel, a link is passive: the task that receives detects a loss and connects the next
//! line. The link stops reconnecting once its sender is closed or dropped, its receiver is dropped, or
//! [`Control::stop`](tieline_transport::Control::stop) is called. If it has no line at that time, it
//! ends at once, with the reason for which the last line was lost, and a waiting sender is released.
//! [`Control::abort`](tieline_transport::Control::abort), and dropping both halves or the [`Client`],
//! end everything at once: the line, the child, and any attempt to connect or wait.
//!
//! # Pools
//!
//! A [`Pool`] lends each line to one caller at a time and keeps it for the next. A line that was not
//! [given back](Pooled::give_back) is closed, because responses to its last caller may still arrive.
//!
//! ```
//! use tieline_link::{Pool, PoolConfig, SharedBreaker};
//! use tieline_transport::{Endpoint, Incoming, Options, ReceiverExt, Registry, SenderExt};
//!
//! # #[cfg(unix)] {
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let endpoint: Endpoint = "exec:cat".parse()?;
//! let connector = Registry::new().connector(&endpoint, &Options::default())?;
//! let pool = Pool::new(connector.into(), PoolConfig { max: 4, ..PoolConfig::default() })?
//!     .with_breaker(SharedBreaker::new(Default::default()));
//!
//! for question in ["one", "two"] {
//!     let mut line = pool.get().await?;
//!     line.sender().send(question).await?;
//!     let answer = line.receiver().recv().await;
//!     assert!(matches!(answer, Incoming::Message(answer) if answer == question));
//!     line.give_back();
//! }
//! assert_eq!((pool.stats().taken, pool.stats().connected), (2, 1));
//! pool.close().await;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | by default | |
//! |---|---|
//! | limits | 10 lines; 1,024 waiting callers, served in order, for at most 30 s each |
//! | a line is closed | after 10 min idle; at an age of 30 min ± 10 %; when it is given back with anything unsent or unread |
//! | a line is checked | before it is lent, unless it was used within the last 500 ms: it must not have ended, and nothing may have been received. No ping is sent |
//! | a line held for 60 s | causes one warning, with the place in the code that took it |
//!
//! A pool has no task. Expired lines are closed when a caller requests a line. To close them at other times,
//! drive [`Pool::maintain`].
//!
//! # Circuit breakers
//!
//! A [`SharedBreaker`] permits calls and records their outcomes. It opens after 5 consecutive failures,
//! or when half of at least 20 calls within 30 s have failed. It stays open for 5 s, and then allows
//! three trial calls. Whenever one of them fails, it opens again for 1.6 times as long as before, up to
//! 300 s.
//!
//! ```
//! use tieline_link::SharedBreaker;
//! use tieline_proto::{BreakerConfig, BreakerState};
//!
//! let breaker = SharedBreaker::new(BreakerConfig::default());
//! for _ in 0..5 {
//!     breaker.acquire()?.failed();
//! }
//! let refused = breaker.acquire().unwrap_err();
//! println!("retry in {:?}", refused.retry_after);
//! breaker.reset();
//! drop(breaker.acquire()?); // abandoned, which does not count as a failure
//! assert_eq!(breaker.state(), BreakerState::Closed);
//! # Ok::<(), tieline_link::BreakerOpen>(())
//! ```
//!
//! # Health checks
//!
//! A [`HealthMonitor`] reports whether the peer is alive, whether the line may be used, how many operations
//! failed, and how long the others took. If the protocol has a ping, await
//! [`next_beat`](HealthMonitor::next_beat) concurrently with the line's work and send a ping whenever it asks
//! for one: after 10 s without a received byte. After two pings without a response within 5 s, which is 25 s
//! after the last byte, the line is no longer live. Without pings, the report is based on the state of the
//! process and the socket.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use tieline_link::HealthMonitor;
//! use tieline_transport::{Channel, SenderExt, memory_pair};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let (ours, theirs) = memory_pair();
//! let monitor = HealthMonitor::new(ours.control().clone());
//! assert!(monitor.report().live && !monitor.report().ready);
//! monitor.set_ready(true);
//!
//! let (mut sender, _receiver) = ours.split();
//! let begun = Instant::now();
//! sender.send("hello").await?;
//! monitor.passed(begun.elapsed());
//!
//! monitor.drain();
//! let report = monitor.report();
//! assert!(report.live && report.draining && !report.ready);
//! println!("99th percentile: {:?}", report.latency.quantile(0.99));
//! # drop(theirs);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod breaker;
mod client;
mod health;
mod link;
mod lock;
#[cfg(feature = "pool")]
mod pool;
mod receiver;
mod recovery;
mod retries;
mod session;
mod shared_link;
mod state;
mod sync;

pub use breaker::{BreakerOpen, CallPermit, SharedBreaker};
pub use client::{Client, ClientOptions, Messages};
pub use health::{HealthMonitor, HealthReport};
pub use link::{Link, LinkOptions, LinkSender};
#[cfg(feature = "pool")]
pub use pool::{Pool, PoolConfig, PoolError, PoolStats, Pooled};
pub use receiver::LinkReceiver;
pub use recovery::Recovery;
pub use retries::Retries;
pub use session::{
    Commits, LineOptions, Session, SessionFailures, SessionOptions, SessionReceiver, SessionSender,
    Sessions, connect_session, connector, listen,
};
pub use shared_link::RESTARTS;
pub use state::{LineState, LineStates};
