//! Reads and discards the bytes that a client still sends after its response, before the connection is
//! closed.
//!
//! Closing a socket with unread bytes resets the connection, and the reset can overtake the response: a
//! client that writes its whole body before it reads sees a broken pipe instead of a 413.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tieline_proto::ByteSize;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How many bytes are discarded, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DrainLimits {
    pub(crate) bytes: ByteSize,
    pub(crate) timeout: Duration,
}

/// A client that sends nothing for this long is assumed to be done.
const SILENCE: Duration = Duration::from_secs(5);

/// Discards incoming bytes until the other side closes or is silent, or a limit is reached.
pub(crate) struct Drain {
    left: usize,
    deadline: Pin<Box<Sleep>>,
    silence: Pin<Box<Sleep>>,
    silence_limit: Duration,
}

impl Drain {
    pub(crate) fn new(limits: DrainLimits) -> Self {
        let silence_limit = SILENCE.min(limits.timeout);
        Self {
            left: limits.bytes.bytes(),
            deadline: Box::pin(sleep(limits.timeout)),
            silence: Box::pin(sleep(silence_limit)),
            silence_limit,
        }
    }

    pub(crate) fn poll(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut bytes = [0; 8 * 1024];
        let mut has_moved = false;
        while self.left > 0 {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.left = self.left.saturating_sub(buffer.filled().len());
                    has_moved = true;
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    if has_moved {
                        self.silence.as_mut().reset(Instant::now() + self.silence_limit);
                    }
                    let is_over = self.deadline.as_mut().poll(cx).is_ready()
                        | self.silence.as_mut().poll(cx).is_ready();
                    return if is_over { Poll::Ready(()) } else { Poll::Pending };
                }
            }
        }
        Poll::Ready(())
    }
}
