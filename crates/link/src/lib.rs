//! A line that comes back, and a client that comes and goes.
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
//! | `Reconnect(LOCAL)`; `unix:`, `mem:` | every end | the same | it is ended |
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

mod client;
mod link;
mod receiver;
mod recovery;
mod session;
mod shared;
mod state;

pub use client::{Client, ClientOptions, Messages};
pub use link::{Link, LinkOptions, LinkSender};
pub use receiver::LinkReceiver;
pub use recovery::Recovery;
pub use session::{
    Commits, LineOptions, Session, SessionOptions, SessionReceiver, SessionSender, Sessions,
    connector, listen,
};
pub use state::{State, States};
