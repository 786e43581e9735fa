//! A client that its server refuses, or whose framing is another one, does not connect again and again.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tieline_link::{
    Client, ClientOptions, LineState, Link, LinkOptions, Pool, PoolConfig, PoolError, Recovery,
    Retries, SessionOptions, connector, listen,
};
use tieline_proto::session::{Frame, Position, Secret, SessionId, Welcome, user_refusal};
use tieline_proto::{BackoffConfig, RetryBudgetConfig};
use tieline_testkit::wait::{block_on, within};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, DynConnector, Endpoint, Incoming, Options,
    Receiver, ReceiverExt, Registry, SenderExt, TransportError,
};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

/// The servers, the client's prefix, and the text of the refusal.
const REFUSALS: [(&str, &str, &str); 7] = [
    ("", "content-length+", "the other side uses the framing lines"),
    ("", "length-prefix+", "the other side uses the framing lines"),
    ("content-length+", "", "the other side uses the framing content-length"),
    ("content-length+", "length-prefix+", "the other side uses the framing content-length"),
    ("length-prefix+", "", "the other side uses the framing length-prefix"),
    ("resume+", "", "the other side accepts only sessions"),
    ("resume+", "content-length+", "the other side accepts only sessions"),
];

fn at(prefix: &str, path: &Path) -> Endpoint {
    format!("{prefix}unix:{}", path.display()).parse().unwrap()
}

/// A connector that counts its attempts.
struct Counting {
    connector: Arc<dyn DynConnector>,
    attempts: AtomicUsize,
}

impl Counting {
    fn to(endpoint: &Endpoint) -> Arc<Self> {
        let (options, session) = (Options::default(), SessionOptions::default());
        let connector = connector(&Registry::new(), endpoint, &options, session).unwrap();
        Arc::new(Self { connector, attempts: AtomicUsize::new(0) })
    }

    fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Relaxed)
    }
}

impl DynConnector for Counting {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.connector.connect()
    }
}

fn recovering() -> LinkOptions {
    LinkOptions::recovering(Recovery::Reconnect(BackoffConfig::LOCAL))
}

/// Serves at `path` with this prefix until the future is dropped. Each line is received from until it ends.
async fn serve(prefix: &str, path: &Path) {
    let (options, session) = (Options::default(), SessionOptions::default());
    let mut acceptor =
        listen(&Registry::new(), &at(prefix, path), &options, session).await.unwrap();
    loop {
        let line = acceptor.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut sender, mut receiver) = line.split();
            while !matches!(receiver.recv().await, Incoming::End(_)) {}
            let _ = sender.close().await;
        });
    }
}

/// Receives until the end. A reset fails the test: there is no other line.
async fn refusal(receiver: &mut impl Receiver) -> String {
    match within("the refusal", receiver.recv()).await {
        Incoming::End(CloseReason::Protocol(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Runs `client` beside a server with the prefix.
async fn beside(prefix: &str, path: &Path, client: impl Future<Output = ()>) {
    tokio::select! {
        () = serve(prefix, path) => {}
        () = client => {}
    }
}

#[test]
fn link_ends_if_its_framing_is_refused() {
    for (server, client, text) in REFUSALS {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("s");
            let counting = Counting::to(&at(client, &path));
            let refused = async {
                let (mut sender, mut receiver) =
                    connected(|| Link::connect(counting.clone(), recovering())).await.split();
                let before = counting.attempts();
                let _ = sender.send("{\"a\":1}").await;
                let said = refusal(&mut receiver).await;
                assert!(said.contains(text), "{client} to {server}: {said}");
                assert_eq!(counting.attempts(), before, "{client} to {server}");
            };
            beside(server, &path, refused).await;
        });
    }
}

/// Connects as soon as the server listens.
async fn connected<T, F>(connect: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, TransportError>>,
{
    loop {
        match connect().await {
            Ok(connected) => return connected,
            Err(error) if error.is_retryable() => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn client_ends_if_its_framing_is_refused() {
    for (server, prefix, text) in REFUSALS {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("s");
            let (endpoint, counting) = (at(prefix, &path), Counting::to(&at(prefix, &path)));
            let options = ClientOptions { link: recovering(), ..ClientOptions::default() };
            let client = Client::over(counting.clone(), endpoint, options);
            let refused = async {
                let mut messages = connected(|| client.connect()).await;
                let before = counting.attempts();
                let _ = client.send("{\"a\":1}").await;
                let said = refusal(&mut messages).await;
                assert!(said.contains(text), "{prefix} to {server}: {said}");
                assert_eq!(counting.attempts(), before, "{prefix} to {server}");
                let state = client.state();
                assert!(matches!(state, LineState::Closed { by_us: false, .. }), "{state}");
            };
            beside(server, &path, refused).await;
        });
    }
}

/// Each caller gets the refusal, and the pool connects only for its callers.
#[test]
fn pool_does_not_connect_again_after_a_refusal() {
    for (server, prefix, text) in REFUSALS {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("s");
            let counting = Counting::to(&at(prefix, &path));
            let refused = async {
                drop(connected(|| counting.connector.connect()).await);
                let pool = Pool::new(counting.clone(), PoolConfig::default()).unwrap();
                let pool = pool
                    .with_retries(Retries::new(RetryBudgetConfig::default(), BackoffConfig::LOCAL));
                for taken in 1..=2 {
                    let mut line = pool.get().await.unwrap();
                    let _ = line.sender().send("{\"a\":1}").await;
                    let said = refusal(line.receiver()).await;
                    assert!(said.contains(text), "{prefix} to {server}: {said}");
                    line.give_back();
                    assert_eq!(counting.attempts(), taken, "{prefix} to {server}");
                }
            };
            beside(server, &path, refused).await;
        });
    }
}

/// A session is refused while it connects.
#[test]
fn pool_of_sessions_does_not_retry_a_refusal() {
    for server in ["", "content-length+", "length-prefix+"] {
        block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("s");
            let counting = Counting::to(&at("resume+", &path));
            let plain = Counting::to(&at(server, &path));
            let refused = async {
                drop(connected(|| plain.connect()).await);
                let pool = Pool::new(counting.clone(), PoolConfig::default()).unwrap();
                let pool = pool
                    .with_retries(Retries::new(RetryBudgetConfig::default(), BackoffConfig::LOCAL));
                let error = within("the refusal", pool.get()).await.unwrap_err();
                assert!(
                    matches!(&error, PoolError::Connect(it) if !it.is_retryable()),
                    "{error:?}"
                );
                assert_eq!(counting.attempts(), 1, "{server}");
            };
            beside(server, &path, refused).await;
        });
    }
}

/// A server that grants a session, loses its connection, and then refuses the client's user.
#[test]
fn session_ends_if_its_user_is_refused_when_it_reconnects() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let carrier = at("resume+", &path).carrier();
        let mut acceptor = Registry::new().listen(&carrier, &Options::default()).await.unwrap();
        let grants_and_leaves = async {
            let (mut sender, mut receiver) = acceptor.accept().await.unwrap().split();
            assert!(matches!(receiver.recv().await, Incoming::Message(_)));
            let (session, secret) = (SessionId([1; 16]), Secret([2; 16]));
            let welcome = Welcome { session, secret, epoch: 1, position: Position::default() };
            sender.send(Frame::Welcome(welcome).to_bytes()).await.unwrap();
            drop(acceptor);
            UnixListener::bind(&path).unwrap()
        };
        let counting = Counting::to(&at("resume+", &path));
        let (client, refusing) = tokio::join!(counting.connect(), grants_and_leaves);
        let (_to_server, mut from_server) = client.unwrap().split();
        let refuse = async {
            loop {
                let (mut connection, _) = refusing.accept().await.unwrap();
                let _ = connection.write_all(&user_refusal()).await;
            }
        };
        let end = tokio::select! {
            () = refuse => unreachable!(),
            end = within("the end", from_server.recv()) => end,
        };
        let Incoming::End(reason) = end else { panic!("{end:?}") };
        assert!(reason.to_string().contains("does not accept processes of this user"), "{reason}");
    });
}
