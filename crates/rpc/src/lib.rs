//! A JSON-RPC 2.0 peer over any channel of messages: both sides call, and both answer.
//!
//! ```text
//!    your tasks                                            the other side
//!      Peer ──call, notify──▶ bounded queue ─┐            ┌─▶ requests, notifications
//!       ▲                                    ▼            │
//!       └── results ◀─────────────────── Driver ── Channel
//!                                            │
//!      Handler ◀── notifications in order, requests concurrently
//! ```
//!
//! # Call
//!
//! ```
//! use tieline_rpc::{Peer, PeerOptions, Router};
//! # use tieline_transport::memory_pair;
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! # let (channel, theirs) = memory_pair();
//! # let router = Router::new().request("add", |(a, b): (i64, i64), _| async move { Ok(a + b) });
//! # let (_their_peer, their_driver) = Peer::new(theirs, router, PeerOptions::default());
//! # tokio::spawn(their_driver);
//! let (peer, driver) = Peer::new(channel, (), PeerOptions::default());
//! tokio::spawn(driver);
//!
//! let sum: i64 = peer.call("add", (2, 3)).await?;
//! assert_eq!(sum, 5);
//! peer.close().await;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Answer
//!
//! [`Router`] is a [`Handler`] made of closures. An agent is a router on a channel, and `driver.await`:
//!
//! ```
//! use tieline_rpc::{ErrorObject, Peer, PeerOptions, Router};
//! # use tieline_transport::{Channel, CloseReason, memory_pair};
//!
//! # async fn serve(channel: impl Channel) -> CloseReason {
//! let agent = Router::new()
//!     .request("divide", |(a, b): (i64, i64), _peer| async move {
//!         a.checked_div(b).ok_or_else(|| ErrorObject::invalid_params("no number times b is a"))
//!     })
//!     .request("greet", |[name]: [String; 1], peer: Peer| async move {
//!         // It asks its caller back before it answers.
//!         let language: String = peer.call("language", ()).await.map_err(ErrorObject::internal)?;
//!         Ok(if language == "de" { format!("Hallo {name}") } else { format!("hello {name}") })
//!     })
//!     .notification("log", |[line]: [String; 1], _peer| async move { eprintln!("{line}") });
//!
//! let (_peer, driver) = Peer::new(channel, agent, PeerOptions::default());
//! let reason = driver.await;
//! eprintln!("the line has ended: {reason}");
//! # reason
//! # }
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! # let (ours, theirs) = memory_pair();
//! # let agent = tokio::spawn(serve(theirs));
//! # let german = Router::new().request("language", |(): (), _| async move { Ok("de") });
//! # let (peer, driver) = Peer::new(ours, german, PeerOptions::default());
//! # tokio::spawn(driver);
//! # peer.notify("log", ["a line"]).await?;
//! # assert_eq!(peer.call::<String>("greet", ["Welt"]).await?, "Hallo Welt");
//! # assert_eq!(peer.call::<i64>("divide", (6, 3)).await?, 2);
//! # assert!(peer.call::<i64>("divide", (6, 0)).await.is_err());
//! # peer.close().await;
//! # agent.await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The channel is any: `tieline::connect("stdio:")` for an agent that somebody starts,
//! `tieline::connect("exec:some-agent")` for its caller, what an acceptor accepts, or
//! [`memory_pair`](tieline_transport::memory_pair) in a test.
//!
//! # What waits, and for how long
//!
//! | what | waits for | until |
//! |---|---|---|
//! | [`call`](Peer::call), [`notify`](Peer::notify) | room in the queue | there is, or the call's timeout |
//! | a call that was queued | its answer | its timeout: none by default |
//! | a request of theirs | notifications before it; one of 256 places | it starts; 256 wait, others are `overloaded` |
//! | an answer of ours | the line | the channel's stall timeout: without progress for 10 s, or 60 s to a child process |
//! | a notification of theirs | the ones before it | 16 MiB of them wait; then reading stops, for 10 s at most |
//! | [`close`](Peer::close) | what is under way on both sides | the grace, 10 s |
//!
//! [`PeerOptions`] has the numbers.
//!
//! # Answers that are not quite right
//!
//! A message that carries the id of a pending call and has no string `method` ends that call, with an
//! error that shows it if it is not a valid response. An id that is written differently (`"1"` or `1.0`
//! for `1`) counts too. An error with a null id, or none, ends the only pending call. An answer that is
//! longer than the channel takes, or not JSON, ends its call if the id stands in its first 4 KiB;
//! without one, it ends the only pending call if it is too long or has a `result` or an `error`. Only a
//! lost answer of which less is known leaves its call waiting: set a timeout where that matters. The
//! error of the timeout counts what came meanwhile and could not be read.
//!
//! A side that has made a call, or whose handler answers nothing, never answers what may be an answer or
//! a line of a log: it drops, counts and logs it. Other sides answer what they cannot read with an error
//! whose id is null, as the specification says, up to 256 at once and 16 a second: two programs that
//! answer each other's errors would go on for ever.
//!
//! # Over a line that comes back
//!
//! Over a Link, the other side may be lost and another come in its place. Then
//!
//! - every call in flight ends at once: as *unknown* if it was handed to the line, else as
//!   [not sent](NotSent::Reset). What else was queued for the line that was lost is dropped;
//! - what the other side had asked over it is given up, and not answered over the new one;
//! - the handler is told ([`Handler::reset`], [`Router::on_reset`]), and begins anew before any other
//!   call goes out: those wait until it is done;
//! - a handle [for one line alone](Peer::on_this_line) stays behind with its line.
//!
//! A loss is heard of when the new line is there. Until then calls in flight wait, as long as their
//! timeouts let them, and new ones are queued, to end as not sent.
//!
//! ```
//! use tieline_rpc::{Peer, PeerOptions, Router};
//! # use tieline_transport::Channel;
//!
//! # fn start(link: impl Channel) {
//! let router = Router::new().on_reset(|reset, peer: Peer| async move {
//!     eprintln!("the server was lost: {}", reset.cause);
//!     // Through this `peer`: others wait for it.
//!     let _ = peer.call::<serde_json::Value>("initialize", ()).await;
//! });
//! let (peer, driver) = Peer::new(link, router, PeerOptions::default());
//! # drop((peer, driver));
//! # }
//! ```
//!
//! # What holds
//! - Notifications are handled one after the other, in the order of their arrival; a request starts
//!   only after the notifications that came before it. Requests run concurrently, up to a limit;
//!   those beyond wait, and those beyond that are answered `overloaded`. Answers to our own calls
//!   get through all the while.
//! - A call that gave no result says whether it was *not sent*, so that calling again is safe, or
//!   its fate is *unknown*.
//! - A call that is dropped is taken back if it was not sent, and cancelled if the dialect can.
//! - What is malformed is answered as the specification says, and costs itself alone. A handler
//!   that panics costs its request.
//! - Dropping the [`Driver`] ends the line at once; dropping a [`Peer`] ends nothing.
//!
//! A driver must be polled inside a tokio runtime with time enabled: it starts a task for each handler
//! that has to wait.

mod allowance;
mod batch;
mod driver;
mod error;
mod handler;
mod inbound;
mod instead;
mod invocation;
mod options;
mod peer;
mod router;
mod shared;

pub use driver::Driver;
pub use error::{CallError, ErrorObject, Meanwhile, NotSent};
pub use handler::{Answer, Handler, Outcome};
pub use invocation::Invocation;
pub use options::PeerOptions;
pub use peer::Peer;
pub use router::Router;
pub use shared::UnclaimedAnswers;
pub use tieline_proto::jsonrpc::{Dialect, Notification, Request, TraceParent};
