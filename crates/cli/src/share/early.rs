//! The beginning of a client's line. Until the server has sent something, it may be ending: then the client starts
//! another one.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use serde_json::Value;
use tieline_proto::ByteSize;
use tieline_transport::{BoxChannel, Channel, Incoming, Receiver, ReceiverExt, SenderExt};

use super::Client;
use crate::report::Failure;

/// How often a client connects to a server that ends before it has sent anything.
const ATTEMPTS: u32 = 3;

/// The maximum number of messages that are kept to be sent again, and their maximum length.
const MAX_KEPT: usize = 16;
const MAX_LENGTH: usize = 64 * 1024;

/// The requests that may be sent to two servers, because they change nothing.
const REPEATABLE: [&str; 3] = ["initialize", "server/discover", "ping"];

/// The code of the errors that tieline sends for a program, with MCP dialects and with others.
const CODES: [i64; 2] = [-31000, -32000];

/// A client's line, on which the server has sent something or may no longer be replaced.
pub(super) struct Opened {
    pub(super) near: BoxChannel,
    pub(super) far: BoxChannel,
    pub(super) last: Last,
}

/// Connects, and sends the first requests again if the server ends before it has sent anything.
pub(super) async fn open(client: &Client, near: BoxChannel) -> Result<Opened, Failure> {
    let near_control = near.control().clone();
    let (near_sender, mut near_receiver) = near.split();
    let mut kept: Vec<Bytes> = Vec::new();
    'servers: for _ in 0..ATTEMPTS {
        let far = client.connect().await?;
        let far_control = far.control().clone();
        let (mut far_sender, mut far_receiver) = far.split();
        for message in &kept {
            if far_sender.send(message.clone()).await.is_err() {
                continue 'servers;
            }
        }
        let (from_far, from_near) = loop {
            tokio::select! {
                biased;
                incoming = far_receiver.recv() => match incoming {
                    Incoming::End(_) => continue 'servers,
                    first => break (Some(first), None),
                },
                incoming = near_receiver.recv() => match incoming {
                    Incoming::Message(message)
                        if kept.len() < MAX_KEPT && is_repeatable(&message) =>
                    {
                        kept.push(message.clone());
                        if far_sender.send(message).await.is_err() {
                            continue 'servers;
                        }
                    }
                    other => break (None, Some(other)),
                },
            }
        };
        let last = Last::default();
        let far = Box::new(Watched { rest: far_receiver, first: from_far, last: last.clone() });
        let near = Box::new(Watched { rest: near_receiver, first: from_near, last: Last(None) });
        return Ok(Opened {
            near: BoxChannel::from_parts(near_sender, near, near_control),
            far: BoxChannel::from_parts(far_sender, far, far_control),
            last,
        });
    }
    let why = "the program could not be started, or ended at once";
    Err(client.failure(why, client.log_lines()))
}

fn is_repeatable(message: &Bytes) -> bool {
    if message.len() > MAX_LENGTH {
        return false;
    }
    let message: Value = serde_json::from_slice(message).unwrap_or_default();
    let method = message.get("method").and_then(Value::as_str);
    method.is_some_and(|method| REPEATABLE.contains(&method))
}

/// A receiver that returns an event before the others, and remembers the last message.
struct Watched {
    rest: Box<dyn Receiver>,
    first: Option<Incoming>,
    last: Last,
}

impl Receiver for Watched {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let incoming = match self.first.take() {
            Some(first) => Poll::Ready(first),
            None => self.rest.poll_recv(cx),
        };
        if let Poll::Ready(Incoming::Message(message)) = &incoming {
            self.last.set(message);
        }
        incoming
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        self.rest.limit_to(most)
    }

    fn holds_part(&self) -> bool {
        self.first.is_some() || self.rest.holds_part()
    }

    fn unfinished(&self) -> usize {
        self.rest.unfinished()
    }

    fn keep_sender_open(&mut self) {
        self.rest.keep_sender_open();
    }

    fn unread(&self) -> u64 {
        self.rest.unread()
    }
}

/// The last message of a line, unless it is long. The default remembers it; `None` does not.
#[derive(Clone)]
pub(super) struct Last(Option<Arc<Mutex<Bytes>>>);

impl Default for Last {
    fn default() -> Self {
        Self(Some(Arc::default()))
    }
}

/// What an error response says about a program that has ended.
pub(super) struct LastError {
    pub(super) sentence: String,
    pub(super) stderr: Vec<String>,
}

impl Last {
    fn set(&self, message: &Bytes) {
        let Some(last) = &self.0 else { return };
        let kept = if message.len() <= MAX_LENGTH { message.clone() } else { Bytes::new() };
        *last.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// Returns what the last message says if it is an error response of the server.
    pub(super) fn error(&self) -> Option<LastError> {
        let last = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last: Value = serde_json::from_slice(&last).ok()?;
        let error = last.get("error")?;
        let code = error.get("code").and_then(Value::as_i64)?;
        let sentence = error.get("message").and_then(Value::as_str)?.to_owned();
        let stderr = error.get("data").and_then(|data| data.get("stderr")).and_then(Value::as_str);
        let stderr = stderr.unwrap_or_default().lines().map(str::to_owned).collect();
        CODES.contains(&code).then_some(LastError { sentence, stderr })
    }
}
