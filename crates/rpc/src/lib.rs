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
//! [`Router`] is a [`Handler`] made of closures. An agent that serves its own stdin and stdout is a
//! router, `tieline::connect("stdio:")`, and `driver.await`.
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

mod driver;
mod error;
mod handler;
mod inbound;
mod invocation;
mod options;
mod peer;
mod router;
mod shared;

pub use driver::Driver;
pub use error::{CallError, ErrorObject, NotSent};
pub use handler::{Answer, Handler, Outcome};
pub use invocation::Invocation;
pub use options::PeerOptions;
pub use peer::Peer;
pub use router::Router;
pub use shared::UnclaimedAnswers;
pub use tieline_proto::jsonrpc::{Dialect, Notification, Request};
