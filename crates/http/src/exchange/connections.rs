//! The connections of a line, which are used again for later requests.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response};
use tieline_proto::{ExchangeFailure, ExchangeMethod, ExchangeRequest};
use tieline_transport::{MemoryBudget, PeerIdentity, TransportError};
use tokio::time::{Instant, timeout};

use crate::dial_error::lost;
use crate::dialer::Dialer;
use crate::events::{FullBody, Progress};
use crate::lock::lock;
use crate::stream::Hyper;
use crate::switch::MAX_HEADERS;
use crate::task::Task;

/// How long an idle connection is kept. Servers close theirs after 5 s or later, and a request on a connection that
/// is being closed may be lost.
const IDLE: Duration = Duration::from_secs(4);
/// How many idle connections are kept.
const MAX_IDLE: usize = 8;

pub(super) struct Connections {
    dialer: Arc<Dialer>,
    stall_timeout: Duration,
    progress: Arc<Progress>,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

pub(super) struct Connection {
    send: SendRequest<FullBody>,
    _task: Task,
}

impl Connections {
    pub(super) fn new(dialer: Arc<Dialer>, stall_timeout: Duration) -> Self {
        Self { dialer, stall_timeout, progress: Arc::default(), idle: Mutex::default() }
    }

    /// Returns the progress of all connections.
    pub(super) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Returns the budget for the memory of the line.
    pub(super) fn memory(&self) -> Option<MemoryBudget> {
        self.dialer.memory.clone()
    }

    /// Opens a connection and keeps it for the first request.
    pub(super) async fn open_first(&self) -> Result<Option<PeerIdentity>, TransportError> {
        let (connection, peer) = self.open().await?;
        self.keep(connection);
        Ok(peer)
    }

    async fn open(&self) -> Result<(Connection, Option<PeerIdentity>), TransportError> {
        let (stream, peer) = self.dialer.reach().await?;
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEADERS).max_buf_size(64 * 1024);
        let stream = Hyper::watched(stream, self.stall_timeout, self.progress.clone());
        let made = builder.handshake(stream).await;
        let (send, connection) = made.map_err(|error| lost(std::io::Error::other(error)))?;
        let task = Task(tokio::spawn(connection).abort_handle());
        Ok((Connection { send, _task: task }, peer))
    }

    /// Keeps a connection that has no request.
    pub(super) fn keep(&self, connection: Connection) {
        let mut idle = lock(&self.idle);
        idle.retain(|(connection, since)| since.elapsed() < IDLE && !connection.send.is_closed());
        if idle.len() < MAX_IDLE && !connection.send.is_closed() {
            idle.push((connection, Instant::now()));
        }
    }

    fn idle(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        while let Some((connection, since)) = idle.pop() {
            if since.elapsed() < IDLE && connection.send.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// Sends a request and returns the head of the response.
    pub(super) async fn ask(
        &self,
        request: ExchangeRequest,
    ) -> Result<(Response<Incoming>, Connection), ExchangeFailure> {
        let mut idle = self.idle();
        loop {
            let made = self.request(&request).map_err(|error| unsent(&error))?;
            let is_new = idle.is_none();
            let mut connection = match idle.take() {
                Some(connection) => connection,
                None => {
                    let opened = timeout(self.dialer.connect_timeout, self.open()).await;
                    let limit = self.dialer.connect_timeout;
                    let opened = opened.map_err(|_| ExchangeFailure {
                        text: format!("the server did not accept a connection within {limit:?}"),
                        is_sent: false,
                        is_temporary: true,
                    })?;
                    opened.map_err(|error| unsent(&error))?.0
                }
            };
            match connection.send.try_send_request(made).await {
                Ok(response) => return Ok((response, connection)),
                // The idle connection was closed before the request was sent.
                Err(error) if error.message().is_some() && !is_new => {}
                Err(mut error) => {
                    let is_sent = error.take_message().is_none();
                    return Err(cut(&error.into_error(), is_sent));
                }
            }
        }
    }

    fn request(&self, request: &ExchangeRequest) -> Result<Request<FullBody>, TransportError> {
        let method = match request.method {
            ExchangeMethod::Get => Method::GET,
            ExchangeMethod::Post => Method::POST,
            ExchangeMethod::Delete => Method::DELETE,
        };
        let target = self.dialer.uri(&self.dialer.address.target);
        let mut made = Request::builder().method(method).uri(target);
        for (name, value) in &request.headers {
            made = made.header(name, value);
        }
        let made = self.dialer.introduce(made)?;
        let made = made.body(FullBody::of(request.body.clone()));
        made.map_err(|_| crate::credentials::unsendable("a header"))
    }
}

/// Returns the failure of a request that was not sent.
fn unsent(error: &TransportError) -> ExchangeFailure {
    let hint = error.hint().map(|hint| format!(". Hint: {hint}")).unwrap_or_default();
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    let text = format!("the server cannot be reached: {}{cause}{hint}", error.kind());
    ExchangeFailure { text, is_sent: false, is_temporary: error.is_retryable() }
}

/// Returns the failure of a request whose connection was lost.
pub(super) fn cut(error: &hyper::Error, is_sent: bool) -> ExchangeFailure {
    let text = match error.is_parse() {
        true => format!("the server's response is not HTTP ({error})"),
        false => match error.source() {
            Some(cause) => format!("the connection to the server was lost ({cause})"),
            None => format!("the connection to the server was lost ({error})"),
        },
    };
    ExchangeFailure { text, is_sent, is_temporary: true }
}
