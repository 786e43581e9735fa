//! A conversation with the control protocol: requests in both directions alongside the messages.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tieline_transport::{CloseReason, Control};
use tokio::sync::{OnceCell, mpsc};
use tokio::task::AbortHandle;

use super::calls::Calls;
use super::frames;
use super::reader::{Queued, Reader};
use super::{Cli, End, Error, Message, Options};

/// The minimum time for a response to `initialize`: the program may be starting MCP servers.
const LEAST_INITIALIZE: Duration = Duration::from_secs(60);

/// A conversation with the Claude CLI. It is cheap to clone, and all methods can be called from many
/// tasks.
///
/// One task reads the program's output. When the last clone and the [`Inbox`] are dropped, the program,
/// the task and the running callbacks end at once.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    cli: Cli,
    calls: Arc<Calls>,
    initialized: OnceCell<Value>,
    initialize: Value,
    request_timeout: Duration,
    lost: Arc<AtomicU64>,
    _alive: Arc<Alive>,
}

/// Kills the program and stops the reading task when the last handle is dropped.
struct Alive {
    control: Control,
    task: AbortHandle,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.control.abort();
        self.task.abort();
    }
}

/// The numbers of lines and messages that a session has lost or ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Lines that were not valid messages, because they were not JSON or exceeded the limit.
    pub faults: u64,
    /// Responses to control requests that were late, duplicate or unknown.
    pub unclaimed: u64,
    /// Messages not received before the end, duplicate requests, and messages dropped because a limit
    /// was reached.
    pub lost: u64,
}

impl Session {
    /// Starts the program, and the task that reads its output. Must be called within a runtime.
    ///
    /// Call [`initialize`](Self::initialize) next if there are callbacks or agents.
    ///
    /// # Errors
    /// See [`Cli::connect`].
    pub async fn connect(options: &Options) -> Result<(Self, Inbox), Error> {
        let cli = Cli::connect(options).await?;
        let lost = Arc::new(AtomicU64::new(0));
        let (calls, withdrawn) = Calls::new(lost.clone());
        let callbacks = options.callbacks.clone();
        let (reader, queued) =
            Reader::new(cli.clone(), callbacks, calls.clone(), withdrawn, lost.clone());
        let task = tokio::spawn(reader.run()).abort_handle();
        let alive = Arc::new(Alive { control: cli.control().clone(), task });
        let inbox = Inbox { queued, _alive: alive.clone() };
        let session = Self(Arc::new(Inner {
            cli,
            calls,
            initialized: OnceCell::new(),
            initialize: initialize(options),
            request_timeout: options.request_timeout,
            lost,
            _alive: alive,
        }));
        Ok((session, inbox))
    }

    /// Sends the hooks, MCP servers and agents to the program, and returns the program's description of
    /// itself. The request is sent only once, and further calls return the same response.
    ///
    /// # Errors
    /// See [`request`](Self::request). After an error, the next call tries again.
    pub async fn initialize(&self) -> Result<&Value, Error> {
        let limit = self.0.request_timeout.max(LEAST_INITIALIZE);
        let request = || self.request_within(self.0.initialize.clone(), limit);
        self.0.initialized.get_or_try_init(request).await
    }

    /// Sends a message to the model: a text, or an array of content blocks.
    ///
    /// # Errors
    /// See [`Cli::write`].
    pub async fn say(&self, content: impl Into<Value>) -> Result<(), Error> {
        self.0.cli.write(&frames::user(content.into())).await
    }

    /// Interrupts the current turn. The work of the turn is abandoned, and a `result` follows.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn interrupt(&self) -> Result<(), Error> {
        self.request(json!({ "subtype": "interrupt" })).await.map(drop)
    }

    /// Changes the model; `None` selects the default.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn set_model(&self, model: Option<&str>) -> Result<(), Error> {
        self.request(json!({ "subtype": "set_model", "model": model })).await.map(drop)
    }

    /// Changes the permission mode: `default`, `acceptEdits`, `plan`, …
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn set_permission_mode(&self, mode: &str) -> Result<(), Error> {
        self.request(json!({ "subtype": "set_permission_mode", "mode": mode })).await.map(drop)
    }

    /// Sends any control request: an object with a `subtype`, such as `mcp_status` or `get_context_usage`. If
    /// the future is dropped before the response arrives, the request is cancelled.
    ///
    /// Receive messages in the meantime or drop the [`Inbox`]: while 16 MiB of messages are queued, no
    /// response arrives.
    ///
    /// # Errors
    /// [`Error::Refused`] with the program's message, [`Error::BadAnswer`], [`Error::TimedOut`], or
    /// [`Error::Closed`].
    pub async fn request(&self, request: Value) -> Result<Value, Error> {
        self.request_within(request, self.0.request_timeout).await
    }

    async fn request_within(&self, request: Value, limit: Duration) -> Result<Value, Error> {
        let name = request.get("subtype").and_then(Value::as_str).unwrap_or("request").to_owned();
        let calls = &self.0.calls;
        let mut waiting = calls.begin().map_err(Error::Closed)?;
        let asked = async {
            match self.0.cli.write(&frames::request(&waiting.id, request)).await {
                // The program has exited, and the reader finds out how.
                Err(Error::Closed(reason)) if !matches!(reason, CloseReason::ByUs) => {}
                written => written?,
            }
            match waiting.answered().await {
                Some(Ok(answer)) => Ok(answer),
                Some(Err(no_answer)) => Err(no_answer.into_error(name.clone())),
                None => Err(Error::Closed(calls.ended().unwrap_or(CloseReason::ByUs))),
            }
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(answered) => answered,
            Err(_) => Err(Error::TimedOut { request: name, after: limit }),
        }
    }

    /// Closes the program's input, after which the program finishes its work and exits. Results of
    /// callbacks can no longer be sent.
    ///
    /// # Errors
    /// See [`Cli::end_input`].
    pub async fn end_input(&self) -> Result<(), Error> {
        self.0.cli.end_input().await
    }

    /// Stops the program in stages; see [`Cli::close`]. Messages sent in the meantime are still
    /// delivered while there is room; the rest is [counted](Counts::lost).
    pub async fn close(&self) -> End {
        // The task continues to read, without waiting for the inbox.
        self.0.cli.close_beside(std::future::pending()).await
    }

    /// See [`Cli::is_ready`].
    pub fn is_ready(&self) -> bool {
        self.0.cli.is_ready()
    }

    /// See [`Cli::end`].
    pub fn end(&self) -> Option<End> {
        self.0.cli.end()
    }

    /// See [`Cli::control`].
    pub fn control(&self) -> &Control {
        self.0.cli.control()
    }

    /// Returns how much was lost so far.
    pub fn counts(&self) -> Counts {
        Counts {
            faults: self.0.cli.control().info().faults,
            unclaimed: self.0.calls.unclaimed(),
            lost: self.0.lost.load(Ordering::Relaxed),
        }
    }

    /// Returns how many control requests are waiting for their responses.
    pub fn pending(&self) -> usize {
        self.0.calls.waiting()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("cli", &self.0.cli).field("counts", &self.counts()).finish()
    }
}

fn initialize(options: &Options) -> Value {
    let mut request = Map::new();
    request.insert("subtype".to_owned(), json!("initialize"));
    options.callbacks.describe(&mut request);
    if let Some(agents) = &options.agents {
        request.insert("agents".to_owned(), agents.clone());
    }
    Value::Object(request)
}

/// The messages from the program, without the control protocol, in order. Receive them or drop the inbox:
/// while 16 MiB are queued, the program has to wait.
pub struct Inbox {
    queued: mpsc::UnboundedReceiver<Queued>,
    _alive: Arc<Alive>,
}

impl Inbox {
    /// Waits for the next message. Returns `None` once the line has ended and all messages were
    /// received. Cancel-safe.
    ///
    /// # Errors
    /// See [`Messages::next`](super::Messages::next).
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        let (line, _room) = self.queued.recv().await?;
        Some(line.and_then(|line| {
            serde_json::from_slice(&line).map(Message::of).map_err(Error::Unreadable)
        }))
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("waiting", &self.queued.len()).finish_non_exhaustive()
    }
}
