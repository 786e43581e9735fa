//! The program on its pipes: JSON values in both directions, and its end.

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

/// A running Claude CLI in stream-json mode, without the control protocol, which
/// [`Session`](super::Session) adds. It is cheap to clone. Many tasks can write at once, and their lines
/// are never mixed.
///
/// Reads and writes happen only in calls to these methods. Dropping the last clone and the last
/// [`Messages`] kills the program at once.
#[derive(Clone)]
pub struct Cli(Arc<Shared>);

struct Shared {
    sender: SharedSender<FramedSender<WriteHalf<ChildStdin>, Framing>>,
    receiver: Mutex<FramedReceiver<ReadHalf<ChildStdout>, Framing>>,
    control: Control,
    stop: StopTimeouts,
    input_ended: AtomicBool,
    closing: watch::Sender<bool>,
    /// Whether the program was alive when `close` was called.
    closed_by_us: AtomicBool,
    end: OnceLock<End>,
    /// The files, which are kept as long as the program may read them.
    _files: Option<Files>,
}

impl Cli {
    /// Finds the program and starts it.
    ///
    /// # Errors
    /// [`Error::Launch`] if the program was not found (with the places searched), an option is out of
    /// range, or the operating system could not start the program.
    pub async fn connect(options: &Options) -> Result<Self, Error> {
        let program = find(options.program.as_deref())?;
        let (args, files) = options.args_and_files().map_err(|error| {
            TransportError::of(error, Operation::Launch).with_hint(
                "large prompts and configurations are written to the temporary directory: is it writable?",
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

    /// Writes one message as one line. Waits while the program does not read; after 60 s without
    /// progress (`program_stall_timeout` in [`Options::channel`]), the line ends. If the future is
    /// dropped, either the whole line is queued or none of it.
    ///
    /// # Errors
    /// [`Error::NotSent`] if the message exceeds the limit. [`Error::Closed`] if the line or its input has
    /// ended.
    pub async fn write(&self, message: &Value) -> Result<(), Error> {
        let line = serde_json::to_vec(message).map_err(Error::Unreadable)?;
        Ok(self.0.sender.send(Bytes::from(line)).await?)
    }

    /// Returns the messages from the program. All receivers share one stream: each message goes to only
    /// one of them.
    pub fn messages(&self) -> Messages {
        Messages { line: self.0.clone(), has_returned_end: false }
    }

    /// Closes the program's input. The program finishes its work and exits.
    ///
    /// # Errors
    /// [`Error::Closed`] if the line ended before everything was written.
    pub async fn end_input(&self) -> Result<(), Error> {
        self.0.input_ended.store(true, Ordering::Relaxed);
        Ok(self.0.sender.close().await?)
    }

    /// Stops the program in stages: ends its input, sends SIGTERM, and sends SIGKILL to all processes
    /// that it started, with the pauses of [`Options::stop`] in between. Messages that the program sends
    /// in the meantime go to the receivers, or are discarded if there are none.
    ///
    /// If the future is dropped, the stages stop where they are. Call `close` again to continue.
    pub async fn close(&self) -> End {
        self.close_beside(self.0.discard()).await
    }

    /// Works like [`close`](Self::close), while `taking` keeps reading so that the program can write.
    pub(super) async fn close_beside(&self, taking: impl Future<Output = ()>) -> End {
        let line = &*self.0;
        if line.control.health() != Health::Down {
            line.closed_by_us.store(true, Ordering::Relaxed);
        }
        line.closing.send_replace(true);
        let end_of_input = tokio::time::timeout(line.stop.end_of_input, self.end_input());
        // A program that does not read cannot receive the end of its input. The stages continue.
        let _ = end_of_input.await;
        let mut stopped = pin!(line.control.stop());
        let reason = tokio::select! {
            reason = &mut stopped => reason,
            () = taking => stopped.await,
        };
        line.ended(reason)
    }

    /// Returns whether messages can be written, that is, whether the program is alive and its input has
    /// not ended.
    pub fn is_ready(&self) -> bool {
        let line = &*self.0;
        line.end.get().is_none()
            && !*line.closing.borrow()
            && !line.input_ended.load(Ordering::Relaxed)
            && line.control.health() != Health::Down
    }

    /// Returns how the line ended, or `None` if it has not ended or its end has not been noticed yet.
    pub fn end(&self) -> Option<End> {
        self.0.end.get().cloned()
    }

    /// Returns the line's control: counts, health, and the child's process id.
    pub fn control(&self) -> &Control {
        &self.0.control
    }

    /// Completes when [`close`](Self::close) is called.
    pub(super) async fn closing(&self) {
        // This cannot fail, because `self` owns the sender.
        let _ = self.0.closing.subscribe().wait_for(|closing| *closing).await;
    }
}

impl Shared {
    fn ended(&self, reason: tieline_transport::CloseReason) -> End {
        let by_us = self.closed_by_us.load(Ordering::Relaxed);
        self.end.get_or_init(|| End { by_us, reason }).clone()
    }

    /// Reads and discards messages if there is no receiver, so that a program that is still writing can
    /// exit.
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

/// The messages from the program, in order.
pub struct Messages {
    line: Arc<Shared>,
    /// Whether the end of the line was returned.
    has_returned_end: bool,
}

impl Messages {
    /// Waits for the next message. Returns `None` once the line has ended. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Fault`] and [`Error::Unreadable`] affect one line, and more messages follow; faults are
    /// counted in the info of [`Control`]. [`Error::Closed`] is the last item, and is returned only if the line
    /// ended with a [failure](End::is_failure).
    pub async fn next(&mut self) -> Option<Result<Value, Error>> {
        let message = self.next_line().await?;
        Some(message.and_then(|line| serde_json::from_slice(&line).map_err(Error::Unreadable)))
    }

    /// Works like [`next`](Self::next), but returns the unparsed line.
    pub(super) async fn next_line(&mut self) -> Option<Result<Bytes, Error>> {
        if self.has_returned_end {
            return None;
        }
        let incoming = self.line.receiver.lock().await.recv().await;
        match incoming {
            Incoming::Message(line) => Some(Ok(line)),
            Incoming::Fault(fault) => Some(Err(Error::Fault(fault))),
            Incoming::End(reason) => {
                self.has_returned_end = true;
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
