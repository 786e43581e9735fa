//! A server with many in-memory clients: each gets its own far side, or is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tieline_gateway::{Bridge, Server, ServerReport, ServerWatch};
use tieline_proto::BreakerState;
use tieline_transport::{
    Backing, BoxChannel, BoxFuture, Channel, ChildExit, ControlBuilder, DynAcceptor, DynConnector,
    Endpoint, ErrorKind, Incoming, Operation, Options, ReceiverExt, Registry, SenderExt,
    TransportError, TransportKind, memory_pair,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A short wait, in virtual time.
const TICK: Duration = Duration::from_millis(1);

/// A connector that sends the other ends of its lines to a queue.
struct Target(mpsc::UnboundedSender<BoxChannel>);

impl DynConnector for Target {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        let (far, server) = memory_pair();
        let given = self.0.send(server.boxed());
        let gone = |_| TransportError::new(ErrorKind::Refused, Operation::Connect);
        Box::pin(std::future::ready(given.map(|()| far.boxed()).map_err(gone)))
    }
}

struct Served {
    registry: Registry,
    endpoint: Endpoint,
    far_ends: mpsc::UnboundedReceiver<BoxChannel>,
    watch: ServerWatch,
    stop: oneshot::Sender<()>,
    report: JoinHandle<ServerReport>,
}

impl Served {
    async fn start(max_connections: usize) -> Self {
        Self::start_with(max_connections, |_| ()).await
    }

    async fn start_with(max_connections: usize, change: impl FnOnce(&mut Server)) -> Self {
        let registry = Registry::new();
        let endpoint = Endpoint::memory("listener");
        let acceptor = registry.listen(&endpoint, &Options::default()).await.unwrap();
        let (target, far_ends) = mpsc::unbounded_channel();
        let mut server = Server::new(max_connections, Bridge::default());
        server.add(acceptor, Arc::new(Target(target)));
        change(&mut server);
        let (watch, (stop, stopped)) = (server.watch(), oneshot::channel());
        let report = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { registry, endpoint, far_ends, watch, stop, report }
    }

    async fn client(&self) -> BoxChannel {
        self.registry.connect(&self.endpoint, &Options::default()).await.unwrap()
    }

    async fn stop(self) -> ServerReport {
        self.stop.send(()).unwrap();
        self.report.await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn server_ends_when_it_has_had_no_client_for_its_idle_time() {
    const IDLE: Duration = Duration::from_secs(60);
    let begun = Instant::now();
    let idle = Served::start_with(2, |server| server.end_when_idle(IDLE)).await;
    assert_eq!(idle.report.await.unwrap().served, 0);
    assert_eq!(begun.elapsed(), IDLE);

    let mut served = Served::start_with(2, |server| server.end_when_idle(IDLE)).await;
    tokio::time::sleep(IDLE / 2).await;
    let client = served.client().await;
    let far = served.far_ends.recv().await.unwrap();
    tokio::time::sleep(3 * IDLE).await;
    assert!(!served.report.is_finished(), "a client is connected");
    drop((client, far));
    let left = Instant::now();
    assert_eq!(served.report.await.unwrap().served, 1);
    assert!((IDLE..2 * IDLE).contains(&left.elapsed()), "{:?}", left.elapsed());
}

#[tokio::test(start_paused = true)]
async fn watch_shows_open_lines_and_the_totals_of_all_lines() {
    let mut served = Served::start(2).await;
    let watch = served.watch.clone();
    let view = watch.now();
    assert_eq!((view.connected, view.lines.len(), view.traffic), (0, 0, Default::default()));
    let mut lines = Vec::new();
    for word in ["one", "three"] {
        let (mut sender, mut receiver) = served.client().await.split();
        sender.send(word).await.unwrap();
        let (mut to_client, mut from_client) = served.far_ends.recv().await.unwrap().split();
        let Incoming::Message(message) = from_client.recv().await else { panic!("no message") };
        to_client.send(message).await.unwrap();
        assert!(matches!(receiver.recv().await, Incoming::Message(_)));
        lines.push((sender, receiver, to_client, from_client));
    }
    let mut refused = served.client().await.split().1;
    assert!(matches!(refused.recv().await, Incoming::End(_)));
    let view = watch.now();
    assert_eq!((view.connected, view.report.refused, view.restarts), (3, 1, 0));
    let seen = view.lines.iter().map(|line| {
        let program = line.program.as_ref().unwrap();
        assert!(program.state.is_connected() && program.pid.is_none() && program.restarts == 0);
        let client = &line.client;
        (line.id, client.messages_in, client.messages_out, client.bytes_in, client.bytes_out)
    });
    // Each message has a length prefix of four bytes.
    assert_eq!(seen.collect::<Vec<_>>(), [(1, 1, 1, 7, 7), (2, 1, 1, 9, 9)]);
    let traffic = view.traffic;
    assert_eq!((traffic.messages_in, traffic.bytes_in, traffic.bytes_out), (2, 16, 16));

    lines.remove(0);
    let over = async {
        while watch.now().lines.len() > 1 {
            tokio::time::sleep(TICK).await
        }
    };
    tokio::time::timeout(Duration::from_secs(60), over).await.expect("no line ended");
    let view = watch.now();
    assert_eq!((view.lines[0].id, view.report.served), (2, 1));
    assert_eq!(view.traffic, traffic, "the traffic of an ended line still counts");
    drop(lines);
    served.stop().await;
    let view = watch.now();
    assert_eq!((view.connected, view.report.served, view.lines.len()), (3, 2, 0));
    assert_eq!(view.traffic, traffic);
}

#[tokio::test(start_paused = true)]
async fn each_client_has_its_own_far_side() {
    let mut served = Served::start(100).await;
    let mut lines = Vec::new();
    for number in 0..100 {
        let (mut sender, receiver) = served.client().await.split();
        sender.send(format!("from {number}")).await.unwrap();
        let (to_client, mut from_client) = served.far_ends.recv().await.unwrap().split();
        let Incoming::Message(message) = from_client.recv().await else { panic!("no message") };
        assert_eq!(message, format!("from {number}"));
        lines.push((sender, receiver, to_client, from_client));
    }
    for (number, (_, _, to_client, _)) in lines.iter_mut().enumerate() {
        to_client.send(format!("to {number}")).await.unwrap();
    }
    for (number, (_, receiver, _, _)) in lines.iter_mut().enumerate() {
        let Incoming::Message(message) = receiver.recv().await else { panic!("no message") };
        assert_eq!(message, format!("to {number}"));
    }
    drop(lines);
    let report = served.stop().await;
    assert_eq!((report.served, report.refused, report.lost), (100, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn each_client_is_refused_while_the_far_side_is_unavailable() {
    let mut served = Served::start(10).await;
    served.far_ends.close();
    for _ in 0..3 {
        let (_sender, mut receiver) = served.client().await.split();
        assert!(matches!(receiver.recv().await, Incoming::End(_)));
    }
    let report = served.stop().await;
    assert_eq!((report.served, report.refused), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn client_is_accepted_again_after_another_has_left() {
    let mut served = Served::start(2).await;
    let first = served.client().await;
    let first_far = served.far_ends.recv().await.unwrap();
    let _second = served.client().await;
    let _second_far = served.far_ends.recv().await.unwrap();
    let (_sender, mut third) = served.client().await.split();
    assert!(matches!(third.recv().await, Incoming::End(_)));

    drop(first_far);
    // The client receives the end shortly before the line has ended.
    assert!(matches!(first.split().1.recv().await, Incoming::End(_)));
    loop {
        let _fourth = served.client().await;
        let far = tokio::time::timeout(Duration::from_secs(1), served.far_ends.recv()).await;
        if far.is_ok() {
            break;
        }
    }
    let report = served.stop().await;
    assert_eq!(report.served, 3);
    assert!(report.refused >= 1);
}

/// A connector that fails, and counts the attempts.
struct Broken(Arc<AtomicU32>);

impl DynConnector for Broken {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let error = TransportError::new(ErrorKind::NotFound, Operation::Connect);
        Box::pin(std::future::ready(Err(error)))
    }
}

#[tokio::test(start_paused = true)]
async fn far_side_that_fails_five_times_is_not_started_for_every_client() {
    let registry = Registry::new();
    let endpoint = Endpoint::memory("listener");
    let acceptor = registry.listen(&endpoint, &Options::default()).await.unwrap();
    let attempts = Arc::new(AtomicU32::new(0));
    let mut server = Server::new(10, Bridge::default());
    server.add(acceptor, Arc::new(Broken(attempts.clone())));
    let watch = server.watch();
    let server = tokio::spawn(server.run(pending()));
    let assert_refused = async || {
        let client = registry.connect(&endpoint, &Options::default()).await.unwrap();
        assert!(matches!(client.split().1.recv().await, Incoming::End(_)));
    };
    for _ in 0..8 {
        assert_refused().await;
    }
    assert_eq!(attempts.load(Ordering::Relaxed), 5);
    let view = watch.now();
    assert!(matches!(view.breaker, BreakerState::Open { .. }), "{view:?}");
    // After the pause, one more attempt is made.
    tokio::time::sleep(view.retry_after.unwrap()).await;
    for _ in 0..3 {
        assert_refused().await;
    }
    assert_eq!(attempts.load(Ordering::Relaxed), 6);
    server.abort();
}

/// A far side that never connects, or that never stops.
enum Never {
    Connects,
    Stops,
}

impl DynConnector for Never {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        match self {
            Self::Connects => Box::pin(pending()),
            Self::Stops => {
                let (far, _) = memory_pair();
                let profile = far.control().profile();
                let (sender, receiver) = far.split();
                let control = ControlBuilder {
                    kind: TransportKind::custom("never"),
                    endpoint: Endpoint::memory("never"),
                    peer: None,
                    capabilities: Default::default(),
                    profile,
                    backing: Arc::new(Stubborn),
                };
                let (sender, receiver) = (Box::new(sender), Box::new(receiver));
                let far = BoxChannel::from_parts(sender, receiver, control.build());
                Box::pin(std::future::ready(Ok(far)))
            }
        }
    }
}

struct Stubborn;

impl Backing for Stubborn {
    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        Box::pin(pending())
    }
}

#[tokio::test(start_paused = true)]
async fn far_side_that_never_connects_or_never_stops_does_not_delay_the_end() {
    for (target, failed, seconds) in [(Never::Connects, 0, 0), (Never::Stops, 1, 11)] {
        let registry = Registry::new();
        let endpoint = Endpoint::memory("listener");
        let acceptor = registry.listen(&endpoint, &Options::default()).await.unwrap();
        let mut server = Server::new(10, Bridge::default());
        server.add(acceptor, Arc::new(target));
        let watch = server.watch();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        let _client = registry.connect(&endpoint, &Options::default()).await.unwrap();
        while watch.now().lines.is_empty() {
            tokio::task::yield_now().await;
        }
        let begun = Instant::now();
        stop.send(()).unwrap();
        let report = server.await.unwrap();
        assert_eq!((report.failed, begun.elapsed().as_secs()), (failed, seconds));
    }
}

/// An acceptor that always fails, because resources are exhausted.
struct Exhausted {
    endpoint: Endpoint,
    attempts: Arc<AtomicU32>,
}

impl DynAcceptor for Exhausted {
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let error = TransportError::new(ErrorKind::ResourcesExhausted, Operation::Accept);
        Box::pin(std::future::ready(Err(error)))
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

#[tokio::test(start_paused = true)]
async fn failed_accept_is_retried_with_growing_pauses() {
    let attempts = Arc::new(AtomicU32::new(0));
    let mut server = Server::new(1, Bridge::default());
    let acceptor = Exhausted { endpoint: Endpoint::memory("listener"), attempts: attempts.clone() };
    let (target, _far_ends) = mpsc::unbounded_channel();
    server.add(Box::new(acceptor), Arc::new(Target(target)));
    let server = tokio::spawn(server.run(pending()));
    let mut after = Vec::new();
    for seconds in [1, 10, 60] {
        let _ = tokio::time::timeout(Duration::from_secs(seconds), pending::<()>()).await;
        after.push(attempts.swap(0, Ordering::Relaxed));
    }
    // The attempts are made at 0, 50, 150, 350 and 750 ms, and then once per second.
    assert_eq!(after[0], 5);
    assert!((9..=11).contains(&after[1]) && (59..=61).contains(&after[2]), "{after:?}");
    server.abort();
}

/// An acceptor with one client, which reports when a second one is requested.
struct Single {
    endpoint: Endpoint,
    client: Option<BoxChannel>,
    emptied: Option<oneshot::Sender<()>>,
}

impl DynAcceptor for Single {
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        if let Some(client) = self.client.take() {
            return Box::pin(std::future::ready(Ok(client)));
        }
        let _ = self.emptied.take().map(|emptied| emptied.send(()));
        Box::pin(pending())
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// Each of several acceptors hands over its client while the server begins to stop, in any order.
#[tokio::test(start_paused = true)]
async fn clients_that_are_accepted_while_the_server_stops_are_refused() {
    for _ in 0..50 {
        let mut server = Server::new(8, Bridge::default());
        let (mut clients, mut stops) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            let (ours, client) = memory_pair();
            let (emptied, stop) = oneshot::channel();
            clients.push(client);
            stops.push(stop);
            let (client, emptied) = (Some(ours.boxed()), Some(emptied));
            let acceptor = Single { endpoint: Endpoint::memory("listener"), client, emptied };
            server.add(Box::new(acceptor), Arc::new(Never::Connects));
        }
        let stop = async {
            for stop in stops {
                stop.await.unwrap();
            }
        };
        assert_eq!(server.run(stop).await.refused, 4);
        for client in clients {
            assert!(matches!(client.split().1.recv().await, Incoming::End(_)));
        }
    }
}

/// Sends a request from a new client. Returns the messages that the client receives until its line ends.
async fn ask(registry: &Registry, endpoint: &Endpoint) -> Vec<serde_json::Value> {
    let client = registry.connect(endpoint, &Options::default()).await.unwrap();
    let (mut sender, mut receiver) = client.split();
    for request in
        [r#"{"jsonrpc":"2.0","method":"hello"}"#, r#"{"jsonrpc":"2.0","id":7,"method":"m"}"#]
    {
        sender.send(request).await.unwrap();
    }
    sender.close().await.unwrap();
    let mut received = Vec::new();
    loop {
        match receiver.recv().await {
            Incoming::Message(message) => received.push(serde_json::from_slice(&message).unwrap()),
            Incoming::End(_) => return received,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn client_without_a_program_gets_an_error_response_if_the_dialect_is_known() {
    use tieline_proto::jsonrpc::Dialect;

    for (dialect, code) in [
        (None, None),
        (Some(Dialect::XI), None),
        (Some(Dialect::LSP), Some(-32000)),
        (Some(Dialect::MCP), Some(-31000)),
    ] {
        let registry = Registry::new();
        let endpoint = Endpoint::memory(format!("no program {code:?} {}", dialect.is_some()));
        let acceptor = registry.listen(&endpoint, &Options::default()).await.unwrap();
        let bridge = Bridge { dialect, ..Bridge::default() };
        let mut server = Server::new(4, bridge);
        let (target, far_ends) = mpsc::unbounded_channel();
        drop(far_ends);
        server.add(acceptor, Arc::new(Target(target)));
        let (stop, stopped) = oneshot::channel::<()>();
        let report = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        // Five failures open the breaker, and the sixth client gets an error that says so.
        let mut texts = Vec::new();
        for _ in 0..6 {
            let received = ask(&registry, &endpoint).await;
            assert_eq!(received.len(), usize::from(code.is_some()), "{received:?}");
            for answer in received {
                assert_eq!((&answer["id"], &answer["error"]["code"]), (&7.into(), &code.into()));
                texts.push(answer["error"]["message"].as_str().unwrap().to_owned());
            }
        }
        if code.is_some() {
            assert!(texts[0].starts_with("the program could not be started: "), "{}", texts[0]);
            let begin = "the program was not started because it keeps failing: ";
            assert!(texts[5].starts_with(begin), "{}", texts[5]);
            let last = texts[4].strip_prefix("the program could not be started: ").unwrap();
            assert!(texts[5].ends_with(&format!(". The last failure: {last}")), "{}", texts[5]);
        }
        stop.send(()).unwrap();
        assert_eq!(report.await.unwrap().refused, 6);
    }
}

#[tokio::test]
async fn client_beyond_the_limit_gets_an_error_response_if_the_dialect_is_known() {
    let registry = Registry::new();
    let endpoint = Endpoint::memory("full");
    let acceptor = registry.listen(&endpoint, &Options::default()).await.unwrap();
    let dialect = Some(tieline_proto::jsonrpc::Dialect::ACP);
    let mut server = Server::new(1, Bridge { dialect, ..Bridge::default() });
    let (target, mut far_ends) = mpsc::unbounded_channel();
    server.add(acceptor, Arc::new(Target(target)));
    let (stop, stopped) = oneshot::channel::<()>();
    let report = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    let first = registry.connect(&endpoint, &Options::default()).await.unwrap();
    let far_end = far_ends.recv().await.unwrap();
    let received = ask(&registry, &endpoint).await;
    let error = &received[0]["error"];
    assert_eq!(
        (received.len(), &error["message"]),
        (1, &"too many clients: the limit of 1 is reached".into())
    );
    // A client that sends no request does not delay the end.
    let silent = registry.connect(&endpoint, &Options::default()).await.unwrap();
    stop.send(()).unwrap();
    drop((first, far_end));
    let report = report.await.unwrap();
    assert_eq!(report.served, 1);
    drop(silent);
}
