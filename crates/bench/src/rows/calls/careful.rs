//! JSON-RPC by hand, as a careful engineer writes it for throughput: large reads, borrowed parsing, and
//! one write for everything that one read caused.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};

use super::client::Echo;
use crate::compare::Result;

const READ: usize = 64 * 1024;

#[derive(Serialize, Deserialize)]
struct Request<'a> {
    jsonrpc: &'a str,
    id: u64,
    method: &'a str,
    #[serde(borrow)]
    params: (&'a str,),
}

#[derive(Serialize, Deserialize)]
struct Response<'a> {
    jsonrpc: &'a str,
    id: u64,
    #[serde(borrow)]
    result: (&'a str,),
}

pub(super) async fn serve(socket: PathBuf) -> Result<()> {
    let listener = crate::peer::listen_raw(socket)?;
    let (stream, _) = listener.accept().await?;
    let (read, mut write) = stream.into_split();
    let mut lines = Lines::new(read);
    let mut responses = Vec::with_capacity(READ);
    while lines.read().await? {
        while let Some(line) = lines.next() {
            let request: Request<'_> = serde_json::from_slice(line)?;
            if request.method != "echo" {
                return Err("unknown method".into());
            }
            let response =
                Response { jsonrpc: request.jsonrpc, id: request.id, result: request.params };
            push(&mut responses, &response)?;
        }
        write.write_all(&responses).await?;
        responses.clear();
    }
    Ok(())
}

/// A client that can be called from many tasks.
#[derive(Clone)]
pub(super) struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when there is something to write.
    queued: Notify,
}

#[derive(Default)]
struct State {
    last: u64,
    queue: Vec<u8>,
    calls: HashMap<u64, oneshot::Sender<String>>,
}

impl Client {
    pub(super) async fn connect(socket: PathBuf) -> Result<Self> {
        let (read, write) = UnixStream::connect(socket).await?.into_split();
        let shared = Arc::new(Shared { state: Mutex::default(), queued: Notify::new() });
        tokio::spawn(shared.clone().write(write));
        tokio::spawn(shared.clone().read(read));
        Ok(Self { shared })
    }
}

impl Echo for Client {
    async fn echo(&self, text: &str) -> Result<String> {
        let (answer, answered) = oneshot::channel();
        let was_empty = {
            let mut state = self.shared.state();
            state.last += 1;
            let id = state.last;
            state.calls.insert(id, answer);
            let was_empty = state.queue.is_empty();
            let request = Request { jsonrpc: "2.0", id, method: "echo", params: (text,) };
            push(&mut state.queue, &request)?;
            was_empty
        };
        if was_empty {
            self.shared.queued.notify_one();
        }
        Ok(answered.await?)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is queued, as much at once as there is.
    async fn write(self: Arc<Self>, mut write: OwnedWriteHalf) -> Result<()> {
        let mut requests = Vec::with_capacity(READ);
        loop {
            self.queued.notified().await;
            std::mem::swap(&mut requests, &mut self.state().queue);
            write.write_all(&requests).await?;
            requests.clear();
        }
    }

    async fn read(self: Arc<Self>, read: OwnedReadHalf) -> Result<()> {
        let mut lines = Lines::new(read);
        let mut answers = Vec::new();
        while lines.read().await? {
            while let Some(line) = lines.next() {
                let response: Response<'_> = serde_json::from_slice(line)?;
                answers.push((response.id, response.result.0.to_owned()));
            }
            let mut state = self.state();
            let answered = answers.drain(..).filter_map(|(id, text)| {
                let call = state.calls.remove(&id)?;
                Some((call, text))
            });
            let answered: Vec<_> = answered.collect();
            drop(state);
            for (call, text) in answered {
                let _ = call.send(text);
            }
        }
        Ok(())
    }
}

fn push(queue: &mut Vec<u8>, message: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *queue, message)?;
    queue.push(b'\n');
    Ok(())
}

/// The lines of a socket, borrowed from the buffer that they were read into.
struct Lines {
    read: OwnedReadHalf,
    buffer: Vec<u8>,
    /// The first byte that has not been returned.
    at: usize,
}

impl Lines {
    fn new(read: OwnedReadHalf) -> Self {
        Self { read, buffer: Vec::with_capacity(READ), at: 0 }
    }

    /// Reads once. Returns false at the end.
    async fn read(&mut self) -> Result<bool> {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.reserve(READ / 2);
        Ok(self.read.read_buf(&mut self.buffer).await? > 0)
    }

    fn next(&mut self) -> Option<&[u8]> {
        let rest = self.buffer.get(self.at..)?;
        let end = memchr::memchr(b'\n', rest)?;
        self.at += end + 1;
        rest.get(..end)
    }
}
