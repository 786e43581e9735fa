//! Publish/subscribe and request/reply between the parts of a program, and between programs.
//!
//! ```text
//!  publish ──▶ subject ──▶ trie of patterns ──┬─▶ queue ──▶ Subscription
//!  request                                    ├─▶ queue ──▶ Subscription
//!     ▲                                       └─▶ group ──▶ queue of the least loaded member
//!     └────────────────── answer ◀── publish to the request's reply subject
//! ```
//!
//! A [`Bus`] carries [`Message`]s to the [`Subscription`]s whose [`Pattern`] matches their [`Subject`]. The
//! embedded bus is a [`Broker`], which needs no other process.
//!
//! ```
//! use tieline_bus::{Broker, Bus, Event, RequestOptions, SubscribeOptions};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let bus = Broker::default();
//! let mut events = bus.subscribe(&"files.>".parse()?, SubscribeOptions::default()).await?;
//! let receipt = bus.publish(&"files.changed".parse()?, "a.rs".into()).await?;
//! assert_eq!(receipt.matched, Some(1));
//! let Event::Message(changed) = events.next().await else { panic!("no message") };
//! assert_eq!((changed.subject().as_str(), &changed.payload()[..]), ("files.changed", &b"a.rs"[..]));
//!
//! let mut requests = bus.subscribe(&"greet".parse()?, SubscribeOptions::group("w")).await?;
//! let worker = tokio::spawn({
//!     let bus = bus.clone();
//!     async move {
//!         while let Some(request) = requests.next_message().await {
//!             if let Some(reply) = request.reply() {
//!                 bus.publish(reply, "hello".into()).await?;
//!             }
//!         }
//!         Ok::<(), tieline_bus::Error>(())
//!     }
//! });
//! let answer = bus.request(&"greet".parse()?, "".into(), RequestOptions::default()).await?;
//! assert_eq!(answer.payload, "hello");
//! drop(bus);
//! # worker.abort();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Other processes
//!
//! [`Broker::serve`] serves a client at the other end of a channel, and [`RemoteBus`] is this client. With a
//! resumable session as the channel, a client that is cut off loses nothing.
//!
//! ```
//! use tieline_bus::{Broker, Bus, ClientLimits, RemoteBus, Rights, SubscribeOptions};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let broker = Broker::default();
//! let (near, far) = tieline_transport::memory_pair();
//! let serving = broker.clone();
//! tokio::spawn(async move {
//!     serving.serve(far, Rights::user(), ClientLimits::default()).await
//! });
//! let remote = RemoteBus::connect(near).await?;
//! let mut events = remote.subscribe(&"files.>".parse()?, SubscribeOptions::default()).await?;
//! broker.publish(&"files.changed".parse()?, "a.rs".into()).await?;
//! assert_eq!(events.next_message().await.unwrap().payload(), "a.rs");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Guarantees
//!
//! | | |
//! |---|---|
//! | order | messages of one publisher arrive at each subscription in the order in which they were published |
//! | loss | only where a queue is full; the subscription receives [`Event::Gap`] with the number of lost messages in their place |
//! | duplicates | none |
//! | full queue | 256 messages or 4 MiB; [`Overflow`] decides. Requests wait until their deadline |
//! | request without a subscription | fails at once with [`Error::NoResponders`] |
//! | responder that ends | its requests fail at once with [`Error::ResponderLost`], which says whether they can be repeated safely |
//! | dropped or cancelled request | is removed from queues; a responder that has taken it receives [`Event::Cancel`] |
//! | answers | only a client that has received the request can answer it |
//!
//! A request that was cancelled or timed out counts as unanswered until the responder has received its
//! cancellation, so a group member that hangs gets no further requests while others have fewer. Over a
//! connection, it counts until the cancellation was sent.

mod balance;
mod broker;
mod bus;
mod error;
mod event;
mod group;
mod lock;
mod message;
mod queue;
mod remote;
mod rights;
mod subject;
mod subscriber;
mod subscription;
mod trie;

pub use broker::{Broker, BrokerConfig, BrokerStats, Client, ClientLimits};
pub use bus::{Bus, CancelHandle, Capabilities, DynBus, Receipt, RequestOptions, SubscribeOptions};
pub use error::{Error, Operation};
pub use event::{Delivery, End, Event};
pub use message::{HeaderError, MAX_HEADER_BYTES, MAX_HEADERS, Message};
pub use queue::{Overflow, QueueLimits};
pub use remote::{Malformed, RemoteBus, Violation};
pub use rights::Rights;
pub use subject::{
    MAX_LENGTH, MAX_TOKENS, Pattern, Subject, SubjectError, SubjectProblem, decode_token,
    encode_token,
};
pub use subscription::Subscription;
