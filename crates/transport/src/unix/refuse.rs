//! Sending the reason to clients whose user is not allowed, and disconnecting them.

use std::io::{self, Write};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::transport::RefusalNotice;

/// The maximum number of refused clients for which the listener waits at the same time. Further clients
/// are sent the reason and disconnected at once. Such a client may get a write error before it reads the
/// reason.
const MAX_CLIENTS: usize = 16;
/// How long a client may take to read the reason and to disconnect.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many bytes from a client are read and discarded during this time.
const MAX_DISCARDED: u64 = 1024 * 1024;

/// The refused clients of one listener. Dropping it disconnects them.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub(super) notice: RefusalNotice,
    clients: JoinSet<()>,
}

impl Refused {
    /// Sends the notice to a client in a task, and disconnects the client.
    pub(super) fn send(&mut self, stream: UnixStream) {
        while self.clients.try_join_next().is_some() {}
        if self.notice.bytes.is_empty() {
            return;
        }
        if self.clients.len() >= MAX_CLIENTS {
            if let (Ok(mut stream), false) = (stream.into_std(), self.notice.is_response) {
                // This does not block, because the notice fits into the empty buffer of a new
                // connection.
                let _ = stream.write(&self.notice.bytes);
            }
            return;
        }
        let notice = self.notice.clone();
        self.clients.spawn(async move {
            let _ = timeout(PATIENCE, send(stream, notice)).await;
        });
    }
}

async fn send(mut stream: UnixStream, notice: RefusalNotice) -> io::Result<()> {
    if notice.is_response {
        stream.readable().await?;
    }
    stream.write_all(&notice.bytes).await?;
    stream.shutdown().await?;
    // Without this, a client that is still writing would get an error before it reads the reason.
    tokio::io::copy(&mut stream.take(MAX_DISCARDED), &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn every_client_gets_the_reason_even_beyond_the_limit() {
        let notice = RefusalNotice { bytes: "no\n".into(), is_response: false };
        let mut refused = Refused { notice, clients: JoinSet::new() };
        let mut clients = Vec::new();
        for _ in 0..3 * MAX_CLIENTS {
            let (mut client, end) = UnixStream::pair().unwrap();
            client.write_all(b"hello\n").await.unwrap();
            refused.send(end);
            clients.push(client);
        }
        for client in &mut clients {
            let mut reason = [0; 3];
            timeout(Duration::from_secs(60), client.read_exact(&mut reason))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(&reason, b"no\n");
        }
    }
}
