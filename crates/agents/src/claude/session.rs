//! A conversation with the control protocol: requests both ways beside the messages.

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

/// What an answer to `initialize` is given at least: the program may be starting MCP servers.
const LEAST_INITIALIZE: Duration = Duration::from_secs(60);

/// A conversation with the Claude CLI. Cheap to clone; every method can be called from many tasks.
///
/// One task reads what the program says. When the last clone and the [`Inbox`] are dropped, the
/// program, the task and the callbacks at work end at once.
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

/// Ends the program and the task that reads, with the last who holds it.
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

/// What a session has lost, or had no use for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Lines that were no message: not JSON, or above the limit.
    pub faults: u64,
    /// Answers to control requests that nobody waited for: late, doubled, or never asked for.
    pub unclaimed: u64,
    /// Messages that nobody took before the end, requests that were asked twice or beyond all
    /// bounds.
    pub lost: u64,
}

impl Session {
    /// Starts the program, and the task that reads what it says. Must be called in a runtime.
    ///
    /// [`initialize`](Self::initialize) comes next, if there are callbacks or agents.
    ///
    /// # Errors
    /// As [`Cli::connect`].
    pub async fn connect(options: &Options) -> Result<(Self, Inbox), Error> {
        let cli = Cli::connect(options).await?;
        let (calls, withdrawn) = Calls::new();
        let lost = Arc::new(AtomicU64::new(0));
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

    /// Tells the program of hooks, MCP servers and agents, and gives what it tells of itself. Done
    /// once: later calls, and those meanwhile, get the same answer.
    ///
    /// # Errors
    /// As [`request`](Self::request); the next call tries again.
    pub async fn initialize(&self) -> Result<&Value, Error> {
        let limit = self.0.request_timeout.max(LEAST_INITIALIZE);
        let request = || self.request_within(self.0.initialize.clone(), limit);
        self.0.initialized.get_or_try_init(request).await
    }

    /// Says something to the model: a text, or an array of content blocks.
    ///
    /// # Errors
    /// As [`Cli::write`].
    pub async fn say(&self, content: impl Into<Value>) -> Result<(), Error> {
        self.0.cli.write(&frames::user(content.into())).await
    }

    /// Ends the turn under way. What is at work is given up; a `result` comes.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn interrupt(&self) -> Result<(), Error> {
        self.request(json!({ "subtype": "interrupt" })).await.map(drop)
    }

    /// Changes the model; `None`: the default one.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn set_model(&self, model: Option<&str>) -> Result<(), Error> {
        self.request(json!({ "subtype": "set_model", "model": model })).await.map(drop)
    }

    /// Changes the permission mode: `default`, `acceptEdits`, `plan`, …
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn set_permission_mode(&self, mode: &str) -> Result<(), Error> {
        self.request(json!({ "subtype": "set_permission_mode", "mode": mode })).await.map(drop)
    }

    /// Any control request: an object with a `subtype`, like `mcp_status` or `get_context_usage`.
    /// Dropped before its answer came, it is withdrawn.
    ///
    /// Take the messages meanwhile, or drop the [`Inbox`]: behind 16 MiB of them no answer arrives.
    ///
    /// # Errors
    /// [`Error::Refused`] with the program's words, [`Error::BadAnswer`], [`Error::TimedOut`], or
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
                // The program has gone; who reads learns how.
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

    /// Ends the program's input: it finishes what it does, and goes. Callbacks cannot be answered
    /// from here on.
    ///
    /// # Errors
    /// As [`Cli::end_input`].
    pub async fn end_input(&self) -> Result<(), Error> {
        self.0.cli.end_input().await
    }

    /// Ends the program in stages, as [`Cli::close`]. What it says meanwhile still comes, as far as
    /// there is room for it; the rest is [counted](Counts::lost).
    pub async fn close(&self) -> End {
        // The task reads on, and waits for nobody any more.
        self.0.cli.close_beside(std::future::pending()).await
    }

    /// As [`Cli::is_ready`].
    pub fn is_ready(&self) -> bool {
        self.0.cli.is_ready()
    }

    /// As [`Cli::end`].
    pub fn end(&self) -> Option<End> {
        self.0.cli.end()
    }

    /// As [`Cli::control`].
    pub fn control(&self) -> &Control {
        self.0.cli.control()
    }

    /// What was lost so far.
    pub fn counts(&self) -> Counts {
        Counts {
            faults: self.0.cli.control().info().faults,
            unclaimed: self.0.calls.unclaimed(),
            lost: self.0.lost.load(Ordering::Relaxed),
        }
    }

    /// How many control requests wait for their answers.
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

/// What the program says, without the control protocol, in order. Take it, or drop it: while 16 MiB
/// wait, the program has to.
pub struct Inbox {
    queued: mpsc::UnboundedReceiver<Queued>,
    _alive: Arc<Alive>,
}

impl Inbox {
    /// Waits for the next message; `None` once the line has ended and all were taken. Cancel-safe.
    ///
    /// # Errors
    /// As [`Messages::next`](super::Messages::next).
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
