//! The lines of a web server, and their acceptor.

use tieline_transport::{
    Acceptor, BoxChannel, Channel, CloseReason, Control, Endpoint, ErrorKind, Operation, Receiver,
    Sender, TransportError,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::events::EventChannel;
use crate::websocket::WebChannel;

/// Yields the lines of an [`HttpServer`](super::HttpServer).
pub type WebAcceptor = LineAcceptor<WebLine>;

/// Yields the lines that are put into a queue. Dropping it refuses further ones, and those that were not accepted
/// yet.
pub struct LineAcceptor<L: Channel> {
    arrivals: mpsc::Receiver<L>,
    endpoint: Endpoint,
    runtime: Handle,
}

impl<L: Channel> LineAcceptor<L> {
    /// Accepts what arrives in a queue, on behalf of `endpoint`. This must be called in a tokio
    /// runtime.
    pub fn new(arrivals: mpsc::Receiver<L>, endpoint: Endpoint) -> Self {
        Self { arrivals, endpoint, runtime: Handle::current() }
    }
}

impl<L: Channel> Drop for LineAcceptor<L> {
    fn drop(&mut self) {
        let mut arrivals = std::mem::replace(&mut self.arrivals, mpsc::channel(1).1);
        arrivals.close();
        // This runs in a task, because a request that has reserved a place may still queue its line, and
        // the queue would then keep the line until the server is dropped.
        self.runtime.spawn(async move {
            while let Some(line) = arrivals.recv().await {
                line.control().report_at_close(CloseReason::ByUs);
            }
        });
    }
}

/// A line that a client opened, over any of the supported protocols.
#[non_exhaustive]
pub enum WebLine {
    /// A WebSocket.
    WebSocket(Box<WebChannel>),
    /// An event stream with POSTs in the other direction, or a call by POST.
    Events(EventChannel),
}

impl WebLine {
    /// Returns the WebSocket, if the line is one.
    pub fn into_web_socket(self) -> Option<WebChannel> {
        match self {
            Self::WebSocket(channel) => Some(*channel),
            Self::Events(_) => None,
        }
    }
}

impl Channel for WebLine {
    type Sender = Box<dyn Sender>;
    type Receiver = Box<dyn Receiver>;

    fn control(&self) -> &Control {
        match self {
            Self::WebSocket(channel) => channel.control(),
            Self::Events(channel) => channel.control(),
        }
    }

    fn split(self) -> (Self::Sender, Self::Receiver) {
        self.boxed().split()
    }

    fn boxed(self) -> BoxChannel {
        match self {
            Self::WebSocket(channel) => channel.boxed(),
            Self::Events(channel) => channel.boxed(),
        }
    }
}

impl<L: Channel> Acceptor for LineAcceptor<L> {
    type Channel = L;

    async fn accept(&mut self) -> Result<L, TransportError> {
        self.arrivals.recv().await.ok_or_else(|| {
            let kind = ErrorKind::Closed(CloseReason::ByUs);
            TransportError::new(kind, Operation::Accept).at(&self.endpoint)
        })
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}
