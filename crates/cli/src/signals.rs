//! The first signal asks for an end, the second does not ask.

use std::future::{Future, pending};
use std::io;

use tokio::sync::watch;

/// The two signals that end the program.
pub(crate) struct Signals(watch::Receiver<u32>);

impl Signals {
    /// Listens for SIGINT and SIGTERM. Must be called in a runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        let (count, counted) = watch::channel(0);
        let mut next = next()?;
        tokio::spawn(async move {
            loop {
                next.next().await;
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(counted))
    }

    /// Completes with the first signal.
    pub(crate) fn first(&self) -> impl Future<Output = ()> + Send + use<> {
        self.nth(1)
    }

    /// Completes with the second.
    pub(crate) fn second(&self) -> impl Future<Output = ()> + Send + use<> {
        self.nth(2)
    }

    fn nth(&self, n: u32) -> impl Future<Output = ()> + Send + use<> {
        let mut counted = self.0.clone();
        async move {
            // The task that counts ends with the runtime only.
            if counted.wait_for(|count| *count >= n).await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

#[cfg(unix)]
struct Next {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
fn next() -> io::Result<Next> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Next {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    })
}

#[cfg(unix)]
impl Next {
    async fn next(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {} _ = self.terminate.recv() => {} }
    }
}
