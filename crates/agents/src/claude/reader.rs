//! The one task of a session: reads what the program says and takes each line where it belongs.

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

/// How many bytes of messages wait to be taken before the program has to. An empty queue takes one
/// message of any size.
const QUEUE: u32 = 16 * 1024 * 1024;

/// A message counts for this much at least.
const LEAST: u32 = 512;

/// So many of the program's requests are worked on at once; those above are refused.
const MAX_ANSWERING: usize = 256;

/// So many answers and withdrawals wait to be written; what is above gets none, and is counted.
const MAX_TASKS: usize = 1024;

/// A message, or why one was lost, with the room that it takes in the queue.
pub(super) type Queued = (Result<Bytes, Error>, OwnedSemaphorePermit);

pub(super) struct Reader {
    cli: Cli,
    messages: Messages,
    callbacks: Callbacks,
    calls: Arc<Calls>,
    withdrawn: mpsc::UnboundedReceiver<String>,
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    /// Callbacks that are at work, by task and by request.
    tasks: JoinSet<()>,
    requests: HashMap<Id, String>,
    answering: HashMap<String, AbortHandle>,
    lost: Arc<AtomicU64>,
}

impl Reader {
    /// And where the messages come out.
    pub(super) fn new(
        cli: Cli,
        callbacks: Callbacks,
        calls: Arc<Calls>,
        withdrawn: mpsc::UnboundedReceiver<String>,
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

    /// Until the line has ended. Dropped, it drops the callbacks that are at work.
    pub(super) async fn run(mut self) {
        // A message that waits for room in the queue: nothing more is read meanwhile.
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
                        // Nobody may want to know any more; the calls go on.
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

    /// Takes a frame where it belongs; gives back what is a message.
    fn route(&mut self, frame: Frame) -> Option<Result<Bytes, Error>> {
        match frame {
            Frame::Message(line) => return Some(Ok(line)),
            Frame::Request { id, request } => self.asked(id, request),
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

    fn asked(&mut self, id: String, request: Value) {
        if self.answering.contains_key(&id) {
            // Asked twice; there will be one answer.
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

    /// Writes without waiting here: while the program does not read it must be listened to.
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
        // The same id may have been asked again since it was withdrawn.
        if self.answering.get(&id).is_some_and(|it| it.id() == task) {
            self.answering.remove(&id);
        }
        if panicked {
            self.write(frames::response(&id, Err("the callback has panicked".to_owned())));
        }
    }

    fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

async fn write(cli: &Cli, message: Value) {
    if let Err(error) = cli.write(&message).await {
        tracing::debug!(%error, "an answer was not written");
    }
}

/// There is no use in waiting for somebody to take messages.
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
