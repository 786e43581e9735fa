#![allow(clippy::unwrap_used)]

use std::task::Context;

use bytes::Bytes;
use tieline_transport::{Incoming, SendError};

use super::*;

/// A receiver that always has another message, and a sender that always has room.
struct Endless;

impl Receiver for Endless {
    fn poll_recv(&mut self, _: &mut Context<'_>) -> Poll<Incoming> {
        Poll::Ready(Incoming::Message(Bytes::from_static(b"y")))
    }
}

impl Sender for Endless {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(&mut self, _: Bytes) -> Result<(), SendError> {
        Ok(())
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }
}

/// Asserts that a future yields although it never has to wait.
fn assert_yields(name: &str, future: impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut future = Box::pin(future);
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending()));
        sender.send(runtime.block_on(polled))
    });
    assert_eq!(receiver.recv_timeout(Duration::from_secs(50)), Ok(true), "{name}");
}

/// The other futures are deadlines, signals and the other direction.
#[test]
fn endless_messages_do_not_starve_other_futures() {
    assert_yields("discarding", async { match discard(&mut Endless).await {} });
    assert_yields("passing on", async {
        let options = Bridge::default();
        let direction = Direction::new(&options, Side::Server);
        direction.pump(&mut Endless, &mut Endless, Watch::default(), None).await;
    });
}
