//! A line that comes back, a client that comes and goes, lines that are kept for the next, and how they
//! do.
//!
//! ```text
//!                    Link: a Channel like any other
//!   LinkSender ───▶ ┌───────────┐ ┌───────────┐ ┌───────────┐
//!                   │  line 1   │ │  line 2   │ │  line 3   │ ── Connector: a child, a server
//!   LinkReceiver ◀─ └───────────┘ └───────────┘ └───────────┘
//!                  Message, … ▲ Reset{2} Message, … ▲ Reset{3} …              End(reason)
//!   States     ◀─  Connected{1} Backoff Connecting Connected{2} …     Closed{by_us, reason}
//! ```
//!
//! A [`Link`] holds one line at a time. When that is lost it ends what is left of it, waits as its
//! [`Recovery`] says, and connects another; its receiver then says
//! [`Incoming::Reset`](tieline_transport::Incoming::Reset), because the other side is a new one that
//! knows nothing. Everything above takes a link as any channel: a JSON-RPC peer, whose calls in flight
//! end at once and which begins its session anew; a bridge, which answers what was left behind.
//!
//! ```
//! use std::sync::Arc;
//! use tieline_link::{Link, LinkOptions, State};
//! use tieline_transport::{Channel, Endpoint, Incoming, Options, ReceiverExt, Registry, SenderExt};
//!
//! # #[cfg(unix)] {
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! // A program that fails at its first line.
//! let program = Endpoint::exec("sh", ["-c", "read line; echo \"heard $line\"; exit 1"]);
//! let connector = Registry::new().connector(&program, &Options::default())?;
//! let link = Link::connect(connector.into(), LinkOptions::default()).await?;
//! let mut states = link.states();
//! let (mut sender, mut receiver) = link.split();
//!
//! for word in ["one", "two"] {
//!     sender.send(word).await?;
//!     let Incoming::Message(heard) = receiver.recv().await else { panic!("no answer") };
//!     assert_eq!(heard, format!("heard {word}"));
//!     // It is started again, and this is where to begin anew.
//!     let Incoming::Reset(reset) = receiver.recv().await else { panic!("no reset") };
//!     println!("line {} in place of one that was lost: {}", reset.epoch, reset.cause);
//! }
//! assert!(matches!(states.next().await, Some(State::Connected { epoch: 3 })));
//! drop((sender, receiver));
//! let last = states.next().await;
//! assert!(matches!(last, Some(State::Closed { by_us: true, .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A client that comes and goes
//!
//! [`Client`] is for hosts: it is made once, connects and disconnects as often as is wanted, and is
//! watched through all of it.
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
//! # When it comes back
//!
//! | [`Recovery`] | after | wait | until |
//! |---|---|---|---|
//! | `Restart(policy)`; a child process, on failure | the ends that the policy names | none, 50 ms, 80 ms, … 5 s | five times within 10 s, then [`GivenUp`](tieline_transport::CloseReason::GivenUp) with the last exit status and stderr |
//! | `Reconnect(LOCAL)`; `unix:`, `mem:`, and an address of loopback or `localhost` | every end | the same | it is ended |
//! | `Reconnect(REMOTE)`; all else | every end | up to 5 s, 1 s, 1.6 s, … 120 s | it is ended |
//!
//! The waits after the first are a fifth longer or shorter. They begin from the start once a connection
//! has lived for 10 s. An error that will not pass by itself (no such program, a refused user) is not
//! tried again: [`Unreachable`](tieline_transport::CloseReason::Unreachable). What is left of the old
//! line, a child that goes on without its stdout, is ended in stages before another begins.
//!
//! # What becomes of messages
//!
//! | a message | becomes |
//! |---|---|
//! | sent while there is no line | nothing yet: the sender waits, nothing is queued, and giving up the wait has sent nothing. The wait ends with the next line or the link; [`Client::send`] also ends it after 30 s |
//! | accepted by a line and not known to be written when it was lost | lost: counted in [`Reset::lost`](tieline_transport::Reset::lost), and the sender's next flush says [`Lost`](tieline_transport::SendError::Lost) |
//! | written before the line was lost | unknown: only the other side could tell. Answers that came before the loss are delivered before the reset |
//!
//! None is sent a second time. When a new line is there its `Reset` is on its way to whoever receives, and
//! what waits to be sent may leave at the same moment: who must begin anew first (a JSON-RPC peer does)
//! lets nothing wait.
//!
//! # Sessions
//!
//! Between two ends of tieline nothing need be lost or unknown: a [`Session`] stands on a Link, numbers
//! its messages and keeps each until the other side has taken it over. [`connector`] and [`listen`] make
//! one wherever an endpoint begins with `resume+`; [`Session::connect`] and [`Sessions`] stand on any
//! connector and acceptor.
//!
//! | a message | becomes |
//! |---|---|
//! | sent while there is no connection | kept, and sent on the next; the sender waits once 1,024 messages or 8 MiB are kept |
//! | on its way when the connection broke | sent again on the next if the other side lacks it, and never seen twice |
//! | not acknowledged when the session is lost | said: [`SessionLost`](tieline_transport::SessionLost) has what was delivered |
//!
//! *Within a session every message is delivered once, in order, or the session ends with an error that
//! says what was delivered.* Across a crash of either end that is not so: the session is in memory. A
//! client that finds its server without memory begins another session, and its receiver says
//! [`Reset`](tieline_transport::Incoming::Reset).
//!
//! A server keeps a session without a connection for two minutes. Whoever knows the session's secret,
//! which changes with each connection, and is the user who began it, may resume it; a newer connection
//! fences off the older. A message is acknowledged when the consumer was given it, or where
//! [`SessionConfig::commits`](tieline_proto::session::SessionConfig::commits) asks for it, when the
//! consumer has [committed](Commits::commit) it.
//!
//! # What ends it
//!
//! Like any channel it is passive: the loss is noticed and another line sought by whoever receives. It
//! comes back no more once its sender was closed or dropped, its receiver dropped, or
//! [`Control::stop`](tieline_transport::Control::stop) called; without a line it ends then at once, with
//! the reason for which the last one was lost, and a sender that waits is released.
//! [`Control::abort`](tieline_transport::Control::abort), and dropping both halves or the [`Client`],
//! end everything at once: line, child, attempt and wait.
//!
//! # Lines that are kept for the next
//!
//! [`Pool`] gives a line to one caller at a time and keeps it for the next. What was asked on a line that
//! was not [given back](Pooled::give_back) may still be answered, so it is closed.
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
//! | at most | 10 lines; 1,024 who wait, in order, for 30 s |
//! | a line is closed | after 10 min idle; when 30 min old, a tenth more or less; when it comes back with anything unsent or unread |
//! | a line is checked | before it is given out, unless it was used within 500 ms: it has not ended, and nobody has said anything. No ping is sent |
//! | a line held for 60 s | is warned of, once, with where it was taken |
//!
//! A pool has no task. What has expired is closed when somebody comes for a line; if it has to happen
//! without that, drive [`Pool::maintain`].
//!
//! # Whether to call at all
//!
//! [`SharedBreaker`] is asked before a call and told what came of it. It opens after 5 failures in a row,
//! or when half of at least 20 calls in 30 s have failed; stays open for 5 s, and 1.6 times as long
//! whenever the three trials after that do not all pass, up to 300 s.
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
//! println!("not now, but in {:?}", refused.retry_after);
//! breaker.reset();
//! drop(breaker.acquire()?); // given up, which is no failure
//! assert_eq!(breaker.state(), BreakerState::Closed);
//! # Ok::<(), tieline_link::BreakerOpen>(())
//! ```
//!
//! # How a line does
//!
//! [`HealthMonitor`] says whether the other side is there, whether the line may be used, how much failed
//! and how long the rest took. Where the other side knows a ping, await
//! [`next_beat`](HealthMonitor::next_beat) beside the line's work and send one whenever it says so: after
//! 10 s without a byte. Two that bring nothing within 5 s, and the line is not live: 25 s after the last
//! byte. Who knows no ping is never asked; the state of its process and socket speak for it.
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
//! println!("99 of 100 took no longer than {:?}", report.latency.quantile(0.99));
//! # drop(theirs);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod breaker;
mod client;
mod health;
mod link;
mod pool;
mod receiver;
mod recovery;
mod retries;
mod session;
mod shared;
mod state;
mod sync;

pub use breaker::{BreakerOpen, CallPermit, SharedBreaker};
pub use client::{Client, ClientOptions, Messages};
pub use health::{HealthMonitor, HealthReport};
pub use link::{Link, LinkOptions, LinkSender};
pub use pool::{Pool, PoolConfig, PoolError, PoolStats, Pooled};
pub use receiver::LinkReceiver;
pub use recovery::Recovery;
pub use retries::Retries;
pub use session::{
    Commits, LineOptions, Session, SessionOptions, SessionReceiver, SessionSender, Sessions,
    connector, listen,
};
pub use state::{State, States};
