//! A JSON-RPC 2.0 peer over any message channel: both sides make calls and answer them.
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
//! # Making calls
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
//! # Answering calls
//!
//! [`Router`] is a [`Handler`] made of closures. An agent is a router on a channel plus `driver.await`:
//!
//! ```
//! use tieline_rpc::{ErrorObject, Peer, PeerOptions, Router};
//! # use tieline_transport::{Channel, CloseReason, memory_pair};
//!
//! # async fn serve(channel: impl Channel) -> CloseReason {
//! let agent = Router::new()
//!     .request("divide", |(a, b): (i64, i64), _peer| async move {
//!         a.checked_div(b).ok_or_else(|| ErrorObject::invalid_params("division by zero"))
//!     })
//!     .request("greet", |[name]: [String; 1], peer: Peer| async move {
//!         // A handler can call its caller before it answers.
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
//! Any channel works: `tieline::connect("stdio:")` in an agent that is started as a child process,
//! `tieline::connect("exec:some-agent")` in the process that starts it, a channel from an acceptor, or
//! [`memory_pair`](tieline_transport::memory_pair) in a test.
//!
//! # Queues and timeouts
//!
//! | what | waits for | limit |
//! |---|---|---|
//! | [`call`](Peer::call), [`notify`](Peer::notify) | room in the queue | none; the call's timeout for a call |
//! | a queued call | its response | its timeout: none by default, see [`call_timeout`](PeerOptions::call_timeout) |
//! | an incoming request | earlier notifications; one of 256 slots | 256 wait; further ones are `overloaded` |
//! | an outgoing response | the line | the channel's stall timeout: 10 s without progress, or 60 s to a child process |
//! | an incoming notification | earlier notifications | 16 MiB wait; then reading stops, for at most 10 s |
//! | [`close`](Peer::close) | work in progress on both sides | the grace period, 10 s |
//!
//! These are the defaults; see [`PeerOptions`].
//!
//! # Malformed responses
//!
//! A message without a string `method` and with the id of a pending call ends that call. If it is not a
//! valid response, the call fails with an error that shows the message. An id that is written
//! differently (`"1"` or `1.0` for `1`) is recognized as well. An error with a null id, or without one,
//! ends the call if it is the only one pending. A response that is too long for the channel or is not
//! JSON ends its call if the id is within the first 4 KiB. Without an id there, it ends the only pending
//! call if it is too long or has a `result` or an `error`. If even less is known about a lost response,
//! the call keeps waiting: set a timeout if that matters. The timeout error includes how many unreadable
//! messages arrived meanwhile.
//!
//! A side that has made a call, or whose handler serves no requests, never answers a message that may be
//! a response or a log line: it drops, counts and logs it. Other sides answer unreadable messages with
//! an error whose id is null, as the specification requires, but limited to a burst of 256 errors and
//! then 16 per second. Without that limit, two programs could answer each other's errors forever.
//!
//! # Reconnecting lines
//!
//! Over a Link, a lost connection can be replaced by one to another process. In that case:
//!
//! - All calls in flight fail: as *unknown* if they were handed to the line, otherwise as
//!   [not sent](NotSent::Reset). Anything else queued for the lost line is dropped.
//! - Requests that arrived over the lost line are abandoned. They are not answered over the new one.
//! - The reset handler runs ([`Handler::reset`], [`Router::on_reset`]) and sets up the new process. Other
//!   calls wait until it is done.
//! - A handle made with [`on_this_line`](Peer::on_this_line) stops working.
//!
//! A loss is reported when the new line is established. Until then, calls in flight keep waiting within
//! their timeouts, and new ones are queued and later fail as not sent.
//!
//! ```
//! use tieline_rpc::{Peer, PeerOptions, Router};
//! # use tieline_transport::Channel;
//!
//! # fn start(link: impl Channel) {
//! let router = Router::new().on_reset(|reset, peer: Peer| async move {
//!     eprintln!("the server was lost: {}", reset.cause);
//!     // Use this `peer`: other handles wait until the handler returns.
//!     let _ = peer.call::<serde_json::Value>("initialize", ()).await;
//! });
//! let (peer, driver) = Peer::new(link, router, PeerOptions::default());
//! # drop((peer, driver));
//! # }
//! ```
//!
//! # Guarantees
//! - Notifications are handled one at a time, in the order of arrival. A request starts only after the
//!   notifications that arrived before it. Requests run concurrently up to a limit; beyond it they wait,
//!   and beyond a second limit they are answered with `overloaded`. Responses to this side's own calls are
//!   processed throughout.
//! - A call without a response reports whether it was *not sent*, in which case it is safe to call
//!   again, or whether its fate is *unknown*.
//! - A dropped call is removed from the queue if it was not sent, and cancelled if the dialect supports it.
//! - A malformed message is answered as the specification requires and affects nothing else. A handler
//!   that panics affects only its request.
//! - Dropping the [`Driver`] ends the line at once; dropping a [`Peer`] does not.
//!
//! A driver must be polled inside a Tokio runtime with time enabled: it spawns a task for each request
//! handler that is not ready immediately.

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
mod shared_peer;

pub use driver::Driver;
pub use error::{CallError, ErrorObject, Meanwhile, NotSent};
pub use handler::{Answer, Handler, Outcome};
pub use invocation::Invocation;
pub use options::PeerOptions;
pub use peer::Peer;
pub use router::Router;
pub use shared_peer::UnclaimedAnswers;
pub use tieline_proto::jsonrpc::{Dialect, Notification, Request, TraceParent};
