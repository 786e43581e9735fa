//! The real programs that the tests talk to, and a record of their notifications.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tieline_rpc::{Answer, Peer, PeerOptions, Router};
use tieline_transport::{CloseReason, Endpoint, Options, Registry};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A program on the other end of a line.
pub(crate) struct Program {
    pub(crate) peer: Peer,
    driver: JoinHandle<CloseReason>,
}

impl Program {
    pub(crate) async fn start(
        endpoint: &Endpoint,
        options: &Options,
        peer: PeerOptions,
        router: Router,
    ) -> Self {
        let registry = Registry::new();
        let channel = registry.connect(endpoint, options).await.unwrap();
        let (peer, driver) = Peer::new(channel, router, peer);
        Self { peer, driver: tokio::spawn(driver) }
    }

    /// Returns how many messages have been received so far.
    pub(crate) fn messages_in(&self) -> u64 {
        self.peer.control().info().messages_in
    }

    /// Closes the line, which must end cleanly.
    pub(crate) async fn close(self) {
        let reason = within("the line's end", self.peer.close()).await;
        assert!(reason.is_clean(), "{reason}");
        within("the driver's end", self.driver).await.unwrap();
    }

    /// Waits until the program exits by itself.
    pub(crate) async fn ended(self) -> CloseReason {
        within("the program's end", self.driver).await.unwrap()
    }
}

/// The unhandled notifications, in order.
pub(crate) struct Notifications(mpsc::UnboundedReceiver<(String, Value)>);

/// Adds a recorder to the router, for all notifications without a handler.
pub(crate) fn recording(router: Router) -> (Router, Notifications) {
    let (report, notifications) = mpsc::unbounded_channel();
    let router = router.other_notifications(move |notification, _| {
        let params = serde_json::from_slice(notification.params().unwrap_or(b"null")).unwrap();
        // The test may have stopped receiving.
        let _ = report.send((notification.method().into_owned(), params));
        Answer::Now(())
    });
    (router, Notifications(notifications))
}

impl Notifications {
    /// Returns the parameters of the next notification of `method`; others before it are skipped.
    pub(crate) async fn next(&mut self, method: &str) -> Value {
        let next = async {
            loop {
                let (received, params) =
                    self.0.recv().await.expect("the line ended before the notification");
                if received == method {
                    return params;
                }
            }
        };
        within(method, next).await
    }
}

/// Returns the path of a file or folder in the fixtures that `variable` points to.
#[track_caller]
pub(crate) fn fixture(variable: &str, below: impl AsRef<Path>) -> PathBuf {
    let remedy =
        "install it with `cargo xtask test --install`, and run tests with `cargo xtask test`";
    let Some(folder) = std::env::var_os(variable) else {
        panic!("{variable} is not set; {remedy}");
    };
    let path = PathBuf::from(folder).join(below);
    assert!(path.exists(), "{variable} does not contain {}; {remedy}", path.display());
    path
}

/// Waits for the event, and fails after a minute.
pub(crate) async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), event).await {
        Ok(there) => there,
        Err(_) => panic!("timed out after a minute: {what}"),
    }
}
