//! Our end of a child's stdin.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::lifecycle::{Lifecycle, StopStage};
use super::pipes::ToChild;
use super::unread::Unread;
use crate::connection::WriteEnd;

/// Our end of the child's stdin. A shutdown closes this end after all bytes have been handed to the
/// system.
#[derive(Debug)]
pub struct ChildStdin {
    pipe: Option<ToChild>,
    stage: Arc<StopStage>,
    unread: Arc<Unread>,
}

impl ChildStdin {
    pub(super) fn new(stdin: ToChild, lifecycle: &Lifecycle) -> Self {
        let unread = lifecycle.unread();
        unread.ask(&stdin);
        Self { pipe: Some(stdin), stage: lifecycle.stage(), unread }
    }

    fn end_input(&mut self) {
        self.stage.raise(StopStage::ASKED);
        self.unread.end_input();
        self.pipe = None;
    }

    fn open(&mut self) -> io::Result<Pin<&mut ToChild>> {
        self.pipe.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for ChildStdin {
    fn drop(&mut self) {
        self.end_input();
    }
}

/// `poll_gone` is not implemented: a child that closed its stdin may still send responses, so its end is
/// noticed when it exits.
impl WriteEnd for ChildStdin {
    #[cfg(target_os = "linux")]
    fn unsent(&self) -> Option<usize> {
        crate::readiness::unread(self.pipe.as_ref()?)?.try_into().ok()
    }
}

impl AsyncWrite for ChildStdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.open()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.pipe.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(pipe) = &mut self.pipe {
            // A failed write means that the child no longer reads.
            let _ = ready!(Pin::new(pipe).poll_shutdown(cx));
        }
        self.end_input();
        Poll::Ready(Ok(()))
    }
}
