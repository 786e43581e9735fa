//! Reads stdin as a whole.

use std::io::Read;

use tieline_proto::ByteSize;
use tokio::sync::oneshot;

/// Reads stdin to its end, or one byte more than `limit`. A separate thread reads, so that signals are
/// handled in the meantime.
pub(crate) async fn read_stdin(limit: ByteSize) -> std::io::Result<Vec<u8>> {
    let (done, wait) = oneshot::channel();
    std::thread::Builder::new().name("tieline-stdin".into()).spawn(move || {
        let mut text = Vec::new();
        let most = limit.bytes() as u64 + 1;
        let read = std::io::stdin().take(most).read_to_end(&mut text);
        let _ = done.send(read.map(|_| text));
    })?;
    wait.await.unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into()))
}
