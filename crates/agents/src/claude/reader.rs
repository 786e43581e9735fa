//! The task of a session that reads the program's output and dispatches each line.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde_json::Value;
use tieline_transport::{BoxFuture, CloseReason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::calls::Calls;
use super::frames::{self, Frame};
use super::{Callbacks, Cli, Error, Messages};

/// How many bytes of messages may be queued before the program has to wait. An empty queue accepts one
/// message of any size.
const QUEUE: u32 = 16 * 1024 * 1024;

/// The minimum weight of a message.
const LEAST: u32 = 512;

/// How many requests from the program are handled at once; further ones are refused.
const MAX_ANSWERING: usize = 256;

/// How many responses and cancellations may wait to be written; further ones are dropped and counted.
const MAX_TASKS: usize = 1024;

/// A message or the reason why one was discarded, with its reserved room in the queue.
pub(super) type Queued = (Result<Bytes, Error>, OwnedSemaphorePermit);

pub(super) struct Reader {
    cli: Cli,
    messages: Messages,
    callbacks: Callbacks,
    calls: Arc<Calls>,
    withdrawn: mpsc::Receiver<String>,
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    /// The running callbacks, by task and by request.
    tasks: JoinSet<()>,
    requests: HashMap<Id, String>,
    answering: HashMap<String, AbortHandle>,
    lost: Arc<AtomicU64>,
}

impl Reader {
    /// Creates the reader, and the receiver of its messages.
    pub(super) fn new(
        cli: Cli,
        callbacks: Callbacks,
        calls: Arc<Calls>,
        withdrawn: mpsc::Receiver<String>,
        lost: Arc<AtomicU64>,
    ) -> (Self, mpsc::UnboundedReceiver<Queued>) {
        let (queue, queued) = mpsc::unbounded_channel();
        let reader = Self {
            messages: cli.messages(),
            cli,
            callbacks,
            calls,
            withdrawn,
            queue,
            room: Arc::new(Semaphore::new(QUEUE as usize)),
            tasks: JoinSet::new(),
            requests: HashMap::new(),
            answering: HashMap::new(),
            lost,
        };
        (reader, queued)
    }

    /// Runs until the line has ended. Dropping the future drops the running callbacks.
    pub(super) async fn run(mut self) {
        // A message that waits for room in the queue. Nothing else is read in the meantime.
        let mut waiting: Option<Result<Bytes, Error>> = None;
        loop {
            let size = waiting.as_ref().map(weight).unwrap_or_default();
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.done(done);
                }
                Some(id) = self.withdrawn.recv() => self.write(frames::cancel(&id)),
                room = self.room.clone().acquire_many_owned(size), if waiting.is_some() => {
                    if let (Ok(room), Some(message)) = (room, waiting.take()) {
                        // The inbox may have been dropped, but calls continue.
                        let _ = self.queue.send((message, room));
                    }
                }
                () = closed_or_unwanted(&self.cli, &self.queue), if waiting.is_some() => {
                    waiting = None;
                    self.lost();
                }
                incoming = self.messages.next_line(), if waiting.is_none() => match incoming {
                    Some(Ok(line)) => waiting = self.route(Frame::of(line)),
                    Some(Err(Error::Closed(reason))) => {
                        self.calls.end(reason.clone());
                        waiting = Some(Err(Error::Closed(reason)));
                    }
                    Some(Err(error)) => {
                        if let Error::Fault(fault) = &error {
                            self.calls.lost(fault.head(), &fault.to_string());
                        }
                        waiting = Some(Err(error));
                    }
                    None => break,
                },
            }
        }
        let reason = self.cli.end().map_or(CloseReason::ByUs, |end| end.reason);
        self.calls.end(reason);
    }

    /// Dispatches a frame. Returns its line if it is a message for the inbox.
    fn route(&mut self, frame: Frame) -> Option<Result<Bytes, Error>> {
        match frame {
            Frame::Message(line) => return Some(Ok(line)),
            Frame::Request { id, request } => self.handle_request(id, request),
            Frame::Response { id: Some(id), answer, .. } => self.calls.answer(&id, answer),
            Frame::Response { id: None, answer, line } => {
                if !self.calls.answer_only(answer) {
                    return Some(Ok(line));
                }
            }
            Frame::Cancel { id } => {
                if let Some(task) = self.answering.remove(&id) {
                    task.abort();
                }
            }
            Frame::KeepAlive => {}
        }
        None
    }

    fn handle_request(&mut self, id: String, request: Value) {
        if self.answering.contains_key(&id) {
            // A duplicate request gets no second response.
            return self.lost();
        }
        let callback = match self.answering.len() {
            ..MAX_ANSWERING => self.callbacks.answer(request),
            _ => Err("too many requests at once".to_owned()),
        };
        match callback {
            Ok(callback) => self.answer(id, callback),
            Err(refusal) => self.write(frames::response(&id, Err(refusal))),
        }
    }

    fn answer(&mut self, id: String, callback: BoxFuture<'static, Value>) {
        let (cli, request) = (self.cli.clone(), id.clone());
        let task = self.tasks.spawn(async move {
            let answer = callback.await;
            write(&cli, frames::response(&request, Ok(answer))).await;
        });
        self.requests.insert(task.id(), id.clone());
        self.answering.insert(id, task);
    }

    /// Writes in a new task, because this one must keep reading while the program does not.
    fn write(&mut self, message: Value) {
        if self.tasks.len() >= MAX_TASKS {
            return self.lost();
        }
        let cli = self.cli.clone();
        self.tasks.spawn(async move { write(&cli, message).await });
    }

    fn done(&mut self, done: Result<(Id, ()), JoinError>) {
        let (task, panicked) = match done {
            Ok((task, ())) => (task, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        let Some(id) = self.requests.remove(&task) else { return };
        // The id may have been reused since its request was cancelled.
        if self.answering.get(&id).is_some_and(|it| it.id() == task) {
            self.answering.remove(&id);
        }
        if panicked {
            self.write(frames::response(&id, Err("the callback panicked".to_owned())));
        }
    }

    fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

async fn write(cli: &Cli, message: Value) {
    if let Err(error) = cli.write(&message).await {
        tracing::debug!(%error, "a message was not written");
    }
}

/// Completes when waiting for room in the inbox has become pointless.
async fn closed_or_unwanted(cli: &Cli, queue: &mpsc::UnboundedSender<Queued>) {
    tokio::select! {
        () = cli.closing() => {}
        () = queue.closed() => {}
    }
}

fn weight(message: &Result<Bytes, Error>) -> u32 {
    let length = message.as_ref().map_or(0, Bytes::len);
    u32::try_from(length).unwrap_or(QUEUE).clamp(LEAST, QUEUE)
}
