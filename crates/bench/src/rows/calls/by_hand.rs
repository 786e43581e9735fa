//! A good manual implementation of JSON-RPC without a library: lines, serde_json, and a map of calls.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

use crate::compare::Result;

#[derive(Serialize, Deserialize)]
struct Request {
    jsonrpc: String,
    id: u64,
    method: String,
    params: (String,),
}

#[derive(Serialize, Deserialize)]
struct Response {
    jsonrpc: String,
    id: u64,
    result: (String,),
}

pub(super) async fn serve(socket: PathBuf) -> Result<()> {
    let listener = crate::peer::listen_raw(socket)?;
    let (stream, _) = listener.accept().await?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let request: Request = serde_json::from_str(&line)?;
        if request.method != "echo" {
            return Err("unknown method".into());
        }
        let response =
            Response { jsonrpc: request.jsonrpc, id: request.id, result: request.params };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        write.write_all(&line).await?;
    }
    Ok(())
}

/// A client that can be called from many tasks.
pub(super) struct Client {
    write: tokio::sync::Mutex<OwnedWriteHalf>,
    calls: Mutex<HashMap<u64, oneshot::Sender<Response>>>,
    last: AtomicU64,
}

impl Client {
    pub(super) async fn connect(socket: PathBuf) -> Result<Arc<Self>> {
        let (read, write) = UnixStream::connect(socket).await?.into_split();
        let client = Arc::new(Self {
            write: tokio::sync::Mutex::new(write),
            calls: Mutex::default(),
            last: AtomicU64::new(0),
        });
        tokio::spawn(client.clone().read(BufReader::new(read).lines()));
        Ok(client)
    }

    async fn read(self: Arc<Self>, mut lines: Lines<BufReader<OwnedReadHalf>>) -> Result<()> {
        while let Some(line) = lines.next_line().await? {
            let response: Response = serde_json::from_str(&line)?;
            let call = self.calls.lock().map_err(|_| "poisoned")?.remove(&response.id);
            if let Some(call) = call {
                let _ = call.send(response);
            }
        }
        Ok(())
    }

    pub(super) async fn echo(&self, text: &str) -> Result<String> {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.calls.lock().map_err(|_| "poisoned")?.insert(id, answer);
        let request =
            Request { jsonrpc: "2.0".into(), id, method: "echo".into(), params: (text.into(),) };
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        self.write.lock().await.write_all(&line).await?;
        let (text,) = answered.await?.result;
        Ok(text)
    }
}
