//! Tells clients whose user is not allowed why they are disconnected.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::transport::RefusalNotice;

/// How many clients are told at the same time. Further ones are disconnected without a reason.
const MAX_CLIENTS: usize = 16;
/// How long a client may take to read the reason and to disconnect.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many bytes of a client are discarded meanwhile.
const MAX_DISCARDED: u64 = 1024 * 1024;

/// The refused clients of one listener. Dropping it disconnects them.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub(super) notice: RefusalNotice,
    clients: JoinSet<()>,
}

impl Refused {
    /// Tells a client in a task, and disconnects it.
    pub(super) fn tell(&mut self, stream: UnixStream) {
        while self.clients.try_join_next().is_some() {}
        if self.notice.bytes.is_empty() || self.clients.len() >= MAX_CLIENTS {
            return;
        }
        let notice = self.notice.clone();
        self.clients.spawn(async move {
            let _ = timeout(PATIENCE, tell(stream, notice)).await;
        });
    }
}

async fn tell(mut stream: UnixStream, notice: RefusalNotice) -> io::Result<()> {
    if notice.is_response {
        stream.readable().await?;
    }
    stream.write_all(&notice.bytes).await?;
    stream.shutdown().await?;
    // A client that is still writing would get an error before it reads the reason.
    tokio::io::copy(&mut stream.take(MAX_DISCARDED), &mut tokio::io::sink()).await?;
    Ok(())
}
