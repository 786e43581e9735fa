//! The server's side: answers status requests from the server's own user.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use tieline_gateway::ServerWatch;
use tieline_rpc::{Answer, ErrorObject, Outcome, Peer, PeerOptions, Router};
use tieline_transport::{BoxChannel, Endpoint, MemoryBudget, Registry};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::METHOD;
use super::login;
use super::response::ServerStatus;
#[cfg(unix)]
use super::share;
use super::socket::StatusSocket;

/// The maximum number of connections. For a further connection, the oldest one is closed, which is most
/// likely idle.
const MAX_CONNECTIONS: usize = 16;

/// How long a connection is kept.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(5);

/// How long to wait before the next attempt after `accept` has failed.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The sources of a status response.
pub(crate) struct StatusSource {
    pub(super) since: (Instant, SystemTime),
    pub(super) command: String,
    pub(super) listeners: Vec<Endpoint>,
    pub(super) watch: ServerWatch,
    pub(super) memory: MemoryBudget,
    pub(super) login_urls: LoginUrls,
    /// Stops the server, if `tieline share` has started it.
    #[cfg(unix)]
    pub(super) stop: Option<crate::share::Stop>,
}

/// A function that creates new one-time URLs.
pub(crate) type LoginUrls = Box<dyn Fn() -> Vec<String> + Send + Sync>;

impl StatusSource {
    /// Creates the source for a server that starts now. `command` is the name to print; `listeners` must
    /// be absolute endpoints.
    pub(crate) fn new(
        command: String,
        listeners: &[Endpoint],
        watch: ServerWatch,
        memory: MemoryBudget,
        login_urls: LoginUrls,
    ) -> Self {
        let since = (Instant::now(), SystemTime::now());
        let listeners = listeners.to_vec();
        Self {
            since,
            command,
            listeners,
            watch,
            memory,
            login_urls,
            #[cfg(unix)]
            stop: None,
        }
    }

    /// Lets `tieline share --stop` stop the server.
    #[cfg(unix)]
    pub(crate) fn stopped_by(mut self, stop: crate::share::Stop) -> Self {
        self.stop = Some(stop);
        self
    }
}

/// The socket or pipe that receives status requests. Dropping it removes the socket.
pub(crate) struct StatusServer(StatusSocket);

impl StatusServer {
    /// Starts listening for this user only, even if other users are served.
    pub(crate) async fn listen(registry: &Registry) -> Result<Self, String> {
        StatusSocket::take(registry).await.map(Self)
    }

    /// Answers requests until the future is dropped, which closes all connections.
    pub(crate) async fn run(mut self, source: StatusSource) -> Infallible {
        let source = Arc::new(source);
        let mut asking = JoinSet::new();
        let mut in_order: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            tokio::select! {
                Some(_) = asking.join_next() => in_order.retain(|asker| !asker.is_finished()),
                accepted = self.0.accept() => match accepted {
                    Ok(channel) => {
                        if in_order.len() >= MAX_CONNECTIONS {
                            if let Some(first) = in_order.pop_front() {
                                first.abort();
                            }
                        }
                        in_order.push_back(asking.spawn(answer(channel, source.clone())));
                    }
                    Err(error) => {
                        tracing::debug!("{error}");
                        sleep(ACCEPT_RETRY_DELAY).await;
                    }
                },
            }
        }
    }
}

async fn answer(channel: BoxChannel, source: Arc<StatusSource>) {
    fn respond(value: &impl Serialize) -> Answer<Outcome> {
        let written = serde_json::to_vec(value);
        Answer::Now(written.map(Bytes::from).map_err(ErrorObject::internal))
    }
    let of_login = source.clone();
    #[cfg(unix)]
    let stop = source.stop.clone();
    let router = Router::new()
        .raw_request(METHOD, move |_, _| respond(&ServerStatus::of(&source)))
        // The socket is accessible only to the server's own user.
        .raw_request(login::METHOD, move |_, _| respond(&(of_login.login_urls)()));
    #[cfg(unix)]
    let router = match stop {
        Some(stop) => {
            router.raw_request(share::METHOD, move |request, _| share::answer(&request, &stop))
        }
        None => router,
    };
    let (_peer, driver) = Peer::new(channel, router, PeerOptions::default());
    let _ = timeout(CONNECTION_LIFETIME, driver).await;
}
