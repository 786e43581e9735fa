//! The program on its pipes: JSON values both ways, and the end of it.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;
use tieline_proto::json::Limits;
use tieline_proto::{Json, Lines};
use tieline_transport::{
    Channel, ChildStdin, ChildStdout, Connector, Control, Framed, FramedReceiver, FramedSender,
    Health, Incoming, Operation, Process, ProcessConfig, ReadHalf, ReceiverExt, SharedSender,
    StopTimeouts, TransportError, WriteHalf,
};
use tokio::sync::{Mutex, watch};

use super::files::Files;
use super::{End, Error, Options, find};

type Framing = Json<Lines>;

/// A running Claude CLI in stream-json mode, without the control protocol; that is
/// [`Session`](super::Session)'s. Cheap to clone: many tasks write at once, and no line is torn.
///
/// Nothing moves unless somebody writes or takes messages. Dropping the last clone and the last
/// [`Messages`] ends the program at once.
#[derive(Clone)]
pub struct Cli(Arc<Shared>);

struct Shared {
    sender: SharedSender<FramedSender<WriteHalf<ChildStdin>, Framing>>,
    receiver: Mutex<FramedReceiver<ReadHalf<ChildStdout>, Framing>>,
    control: Control,
    stop: StopTimeouts,
    input_ended: AtomicBool,
    closing: watch::Sender<bool>,
    /// It was alive when it was closed.
    closed_by_us: AtomicBool,
    end: OnceLock<End>,
    /// The program may read them at any time.
    _files: Option<Files>,
}

impl Cli {
    /// Finds the program and starts it.
    ///
    /// # Errors
    /// [`Error::Launch`]: it was not found (the places searched are named), an option is out of
    /// bounds, or the operating system did not start it.
    pub async fn connect(options: &Options) -> Result<Self, Error> {
        let program = find(options.program.as_deref())?;
        let (args, files) = options.args_and_files().map_err(|error| {
            TransportError::of(error, Operation::Launch).with_hint(
                "large prompts and configurations are handed over in the temporary directory",
            )
        })?;
        let config = ProcessConfig {
            cwd: options.cwd.clone(),
            env: options.environment(),
            stop: options.stop,
            guardian: options.guardian.clone(),
            ..ProcessConfig::new(program).with_args(args)
        };
        let framing = Json::new(Lines::new(options.channel.max_message), Limits::default());
        let connector = Framed::new(Process, config, framing, options.channel)?;
        let channel = connector.connect().await?;
        let control = channel.control().clone();
        let (sender, receiver) = channel.split();
        Ok(Self(Arc::new(Shared {
            sender: SharedSender::new(sender),
            receiver: Mutex::new(receiver),
            control,
            stop: options.stop,
            input_ended: AtomicBool::new(false),
            closing: watch::Sender::new(false),
            closed_by_us: AtomicBool::new(false),
            end: OnceLock::new(),
            _files: files,
        })))
    }

    /// Writes one message, as one line. Waits while the program does not read; after
    /// [`Options::channel`]'s `program_stall_timeout`, 60 s, without progress the line ends. Dropped half-way, it has queued the whole line or nothing of it.
    ///
    /// # Errors
    /// [`Error::NotSent`]: the message is above the limit. [`Error::Closed`]: the line has ended, or
    /// its input.
    pub async fn write(&self, message: &Value) -> Result<(), Error> {
        let line = serde_json::to_vec(message).map_err(Error::Unreadable)?;
        Ok(self.0.sender.send(Bytes::from(line)).await?)
    }

    /// What the program says. Each message goes to one taker: all these are the same stream.
    pub fn messages(&self) -> Messages {
        Messages { line: self.0.clone(), told: false }
    }

    /// Ends the program's input, after which it finishes what it does and goes.
    ///
    /// # Errors
    /// [`Error::Closed`]: the line ended before all was written.
    pub async fn end_input(&self) -> Result<(), Error> {
        self.0.input_ended.store(true, Ordering::Relaxed);
        Ok(self.0.sender.close().await?)
    }

    /// Ends the program in stages: the end of its input, SIGTERM, SIGKILL for all that it started,
    /// with [`Options::stop`] between them. What it says meanwhile goes to who waits for it, and is
    /// discarded if nobody does.
    ///
    /// Dropped half-way, the stages stay where they are; call it again.
    pub async fn close(&self) -> End {
        self.close_beside(self.0.discard()).await
    }

    /// The same while somebody else sees to it that the program can write.
    pub(super) async fn close_beside(&self, taking: impl Future<Output = ()>) -> End {
        let line = &*self.0;
        if line.control.health() != Health::Down {
            line.closed_by_us.store(true, Ordering::Relaxed);
        }
        line.closing.send_replace(true);
        let politely = tokio::time::timeout(line.stop.end_of_input, self.end_input());
        // A program that does not read cannot be told. The stages go on.
        let _ = politely.await;
        let mut stopped = pin!(line.control.stop());
        let reason = tokio::select! {
            reason = &mut stopped => reason,
            () = taking => stopped.await,
        };
        line.ended(reason)
    }

    /// Whether something can be written: the program lives, and its input has not ended.
    pub fn is_ready(&self) -> bool {
        let line = &*self.0;
        line.end.get().is_none()
            && !*line.closing.borrow()
            && !line.input_ended.load(Ordering::Relaxed)
            && line.control.health() != Health::Down
    }

    /// How the line ended; `None` as long as it has not, or nobody has noticed.
    pub fn end(&self) -> Option<End> {
        self.0.end.get().cloned()
    }

    /// The line's handle: counts, health, the child's process id.
    pub fn control(&self) -> &Control {
        &self.0.control
    }

    /// Completes when [`close`](Self::close) is called.
    pub(super) async fn closing(&self) {
        // The sender lives in `self`.
        let _ = self.0.closing.subscribe().wait_for(|closing| *closing).await;
    }
}

impl Shared {
    fn ended(&self, reason: tieline_transport::CloseReason) -> End {
        let by_us = self.closed_by_us.load(Ordering::Relaxed);
        self.end.get_or_init(|| End { by_us, reason }).clone()
    }

    /// Takes what nobody waits for, so that a program that still writes can end.
    async fn discard(&self) {
        let Ok(mut receiver) = self.receiver.try_lock() else {
            return std::future::pending().await;
        };
        while !matches!(receiver.recv().await, Incoming::End(_)) {}
    }
}

impl fmt::Debug for Cli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cli").field("control", &self.0.control).field("end", &self.end()).finish()
    }
}

/// What the program says, in order.
pub struct Messages {
    line: Arc<Shared>,
    /// The failure that ended the line was told.
    told: bool,
}

impl Messages {
    /// Waits for the next message; `None` once the line has ended. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Fault`] and [`Error::Unreadable`] cost one line, are counted (the former in the
    /// [`Control`]'s info), and more follows. [`Error::Closed`] is the last item, and comes only if
    /// the line ended in a [failure](End::is_failure).
    pub async fn next(&mut self) -> Option<Result<Value, Error>> {
        let message = self.next_line().await?;
        Some(message.and_then(|line| serde_json::from_slice(&line).map_err(Error::Unreadable)))
    }

    /// The same before it is taken apart.
    pub(super) async fn next_line(&mut self) -> Option<Result<Bytes, Error>> {
        if self.told {
            return None;
        }
        let incoming = self.line.receiver.lock().await.recv().await;
        match incoming {
            Incoming::Message(line) => Some(Ok(line)),
            Incoming::Fault(fault) => Some(Err(Error::Fault(fault))),
            Incoming::End(reason) => {
                self.told = true;
                let end = self.line.ended(reason);
                end.is_failure().then_some(Err(Error::Closed(end.reason)))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("control", &self.line.control).finish_non_exhaustive()
    }
}
