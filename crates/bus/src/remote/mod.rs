//! Remote clients of an embedded broker, over any channel.
//!
//! ```text
//!  RemoteBus ── operations ──▶ ┌─────────┐ ──▶ Client of the broker
//!     ▲                        │ channel │
//!     └─ queue ◀── deliveries ─└─────────┘ ◀── Subscription of the broker
//! ```
//!
//! Each subscription has a window: the broker sends no more than its reader's queue holds, and the reader
//! says what it has taken. So a subscriber that stops reading stops neither the connection nor the other
//! subscriptions, and its messages wait in the broker, whose queue decides what is lost.

mod client;
mod failure;
mod in_flight;
mod server;
mod violation;
mod window;
mod wire;

use std::time::Duration;

use tieline_transport::{SendError, Sender, SenderExt};
use tokio::sync::mpsc;

pub use client::RemoteBus;
pub use violation::{Malformed, Violation};

use self::wire::Encoded;

/// The version of the frames.
const VERSION: u64 = 1;

/// The maximum number of operations of a client that are in flight. A client waits; the broker tolerates
/// twice as many, because it notices the end of a cancelled operation later.
const MAX_OPERATIONS: usize = 1024;

/// The maximum size of the messages of these operations. Like above.
const MAX_OPERATION_BYTES: usize = 32 << 20;

/// How long to wait for the other side's greeting.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// Writes frames until the line ends or refuses one. Returns why.
async fn write(mut frames: Frames, sender: &mut impl Sender) -> SendError {
    loop {
        let mut next = frames.recv().await;
        while let Some(frame) = next {
            if let Err(error) = feed(sender, frame).await {
                return error;
            }
            next = frames.try_recv();
        }
        if let Err(error) = sender.flush().await {
            return error;
        }
    }
}

async fn feed(sender: &mut impl Sender, frame: Encoded) -> Result<(), SendError> {
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    if frame.payload.is_empty() {
        sender.start_send(frame.head)
    } else {
        sender.start_send_with_head(&frame.head, &frame.payload)
    }
}

/// A queue of frames to be written.
enum Frames {
    Bounded(mpsc::Receiver<Encoded>),
    Unbounded(mpsc::UnboundedReceiver<Encoded>),
}

impl Frames {
    async fn recv(&mut self) -> Option<Encoded> {
        let frame = match self {
            Self::Bounded(frames) => frames.recv().await,
            Self::Unbounded(frames) => frames.recv().await,
        };
        match frame {
            Some(frame) => Some(frame),
            // The connection ends together with the queue.
            None => std::future::pending().await,
        }
    }

    fn try_recv(&mut self) -> Option<Encoded> {
        match self {
            Self::Bounded(frames) => frames.try_recv().ok(),
            Self::Unbounded(frames) => frames.try_recv().ok(),
        }
    }
}
