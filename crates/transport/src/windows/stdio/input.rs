//! Reading stdin from async code: a thread reads, one chunk ahead, and hands over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use windows_sys::Win32::Foundation::ERROR_BROKEN_PIPE;

use super::takeover::{Source, interrupt};
use crate::windows::is_code;

/// One read brings at most this much.
const CHUNK: usize = 64 * 1024;

/// The real stdin. Dropping it stops its thread, also while nothing comes in.
pub struct Stdin {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    position: usize,
    thread: JoinHandle<()>,
}

impl Stdin {
    pub(super) fn new(mut source: Source) -> io::Result<Self> {
        let (hand_over, chunks) = mpsc::channel(1);
        let builder = std::thread::Builder::new().name("tieline-stdin".into());
        let thread = builder.spawn(move || {
            let mut buffer = vec![0; CHUNK];
            loop {
                let read = match source.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => Ok(buffer.get(..read).unwrap_or_default().to_vec()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    // Nobody writes any more.
                    Err(error) if is_code(&error, &[ERROR_BROKEN_PIPE]) => return,
                    Err(error) => Err(error),
                };
                let is_last = read.is_err();
                if hand_over.blocking_send(read).is_err() || is_last {
                    return;
                }
            }
        })?;
        Ok(Self { chunks, chunk: Vec::new(), position: 0, thread })
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.chunks.close();
        interrupt(&self.thread);
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.position == this.chunk.len() {
            match ready!(this.chunks.poll_recv(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                Some(Ok(chunk)) => (this.chunk, this.position) = (chunk, 0),
            }
        }
        let unread = this.chunk.get(this.position..).unwrap_or_default();
        let taken = unread.len().min(buffer.remaining());
        buffer.put_slice(unread.get(..taken).unwrap_or_default());
        this.position += taken;
        Poll::Ready(Ok(()))
    }
}
