//! Programs that run but no longer answer are found by pings.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::server::{Peer, Programs, TestAcceptor, call, client, within};
use tieline_gateway::{Bridge, ProcessModel, Processes, Server, ServerReport};
use tieline_proto::RestartPolicy;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{BoxChannel, Endpoint, Incoming, ReceiverExt, SenderExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const INTERVAL: Duration = Duration::from_secs(30);

struct Test {
    acceptor: mpsc::UnboundedSender<BoxChannel>,
    programs: mpsc::UnboundedReceiver<Peer>,
    stop: oneshot::Sender<()>,
    report: JoinHandle<ServerReport>,
}

impl Test {
    fn start(model: ProcessModel, dialect: Dialect, restart: RestartPolicy) -> Self {
        let bridge = Bridge { dialect: Some(dialect), ..Bridge::default() };
        let mut server = Server::new(1024, bridge);
        server.processes(Processes { model, ..Processes::default() }).unwrap();
        server.restart(restart);
        server.probe(INTERVAL);
        let (acceptor, clients) = mpsc::unbounded_channel();
        let (started, programs) = mpsc::unbounded_channel();
        let connector = Programs { started, attempts: Arc::default(), fails: Arc::default() };
        let listener = TestAcceptor(clients, Endpoint::memory("listener"));
        server.add(Box::new(listener), Arc::new(connector));
        let (stop, stopped) = oneshot::channel();
        let report = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { acceptor, programs, stop, report }
    }

    fn client(&self) -> Peer {
        let (client, near) = client(Some(1));
        self.acceptor.send(near).unwrap();
        client
    }

    async fn program(&mut self) -> Peer {
        within(self.programs.recv()).await.unwrap()
    }

    /// Adds a client that completes the handshake with a program.
    async fn opened(&mut self) -> (Peer, Peer) {
        let mut client = self.client();
        client.send(initialize()).await;
        let mut program = self.program().await;
        open(&mut program).await;
        assert_eq!(client.recv().await["result"], offer());
        client.send(initialized()).await;
        assert_eq!(program.recv().await, initialized());
        (client, program)
    }

    /// Stops the server after the client has left. The program ends last.
    async fn finish(self, client: Peer, mut program: Peer) -> ServerReport {
        drop(client);
        self.stop.send(()).unwrap();
        while let Incoming::Message(_) = within(program.0.1.recv()).await {}
        drop(program);
        within(self.report).await.unwrap()
    }
}

fn initialize() -> Value {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
}

fn initialized() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/initialized"})
}

fn offer() -> Value {
    json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}})
}

/// Answers the handshake, as the program.
async fn open(program: &mut Peer) {
    let request = program.recv().await;
    assert_eq!(request["method"], "initialize");
    program.send(json!({"jsonrpc": "2.0", "id": request["id"], "result": offer()})).await;
}

fn result(id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {}})
}

/// Answers pings for this time, as the program. Returns how many there were.
async fn answer_pings(program: &mut Peer, time: Duration) -> usize {
    let (until, mut pings) = (Instant::now() + time, 0);
    while let Ok(incoming) = tokio::time::timeout_at(until, program.0.1.recv()).await {
        let Incoming::Message(message) = incoming else { panic!("{incoming:?}") };
        let message: Value = serde_json::from_slice(&message).unwrap();
        assert_eq!(message["method"], "ping", "{message}");
        program.send(result(&message["id"])).await;
        pings += 1;
    }
    pings
}

#[tokio::test(start_paused = true)]
async fn program_that_no_longer_answers_is_restarted_whatever_the_model() {
    let pool = ProcessModel::Pool(NonZeroUsize::MIN);
    for model in [ProcessModel::PerClient, ProcessModel::Shared, ProcessModel::PerUser, pool] {
        let mut test = Test::start(model, Dialect::MCP, RestartPolicy::OnFailure);
        let (mut client, mut program) = test.opened().await;
        assert_eq!(answer_pings(&mut program, INTERVAL * 7 / 2).await, 3, "{model}");
        let begun = Instant::now();
        client.send(call(7)).await;
        assert_eq!(program.recv().await["method"], "tools/call");
        // It reads, but does not answer.
        let mut pings = 0;
        let error = loop {
            tokio::select! {
                error = client.recv() => break error,
                incoming = program.0.1.recv() => match incoming {
                    Incoming::Message(_) => pings += 1,
                    // It is stopped.
                    _ => break client.recv().await,
                },
            }
        };
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(7), &json!(-31000)), "{model}");
        let why = error["error"]["message"].as_str().unwrap();
        assert!(why.starts_with("the program did not answer 3 pings and was stopped"), "{why}");
        assert!((3..=4).contains(&pings), "{model}: {pings}");
        let time = begun.elapsed();
        assert!(time >= 3 * INTERVAL && time <= 5 * INTERVAL, "{model}: {time:?}");
        // What the client sends meanwhile is for the next program, after its handshake.
        client.send(call(8)).await;
        drop(program);
        let mut program = test.program().await;
        open(&mut program).await;
        assert_eq!(program.recv().await, initialized());
        let request = program.recv().await;
        assert_eq!(request["method"], "tools/call", "{model}");
        program.send(result(&request["id"])).await;
        assert_eq!(client.recv().await, result(&json!(8)));
        let report = test.finish(client, program).await;
        assert_eq!((report.restarted, report.served), (1, 1), "{model}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_restarts_the_line_ends_with_the_reason() {
    let mut test = Test::start(ProcessModel::PerClient, Dialect::MCP, RestartPolicy::Never);
    let (mut client, program) = test.opened().await;
    client.send(call(7)).await;
    let error = client.recv().await;
    let why = error["error"]["message"].as_str().unwrap();
    assert!(why.starts_with("the program did not answer 3 pings and was stopped"), "{why}");
    client.ended().await;
    assert_eq!(test.finish(client, program).await.failed, 1);
}

#[tokio::test(start_paused = true)]
async fn program_that_sends_anything_is_not_stopped() {
    let mut test = Test::start(ProcessModel::PerClient, Dialect::MCP, RestartPolicy::OnFailure);
    let (mut client, mut program) = test.opened().await;
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/progress"});
    for _ in 0..20 {
        sleep(2 * INTERVAL).await;
        program.send(notification.clone()).await;
        assert_eq!(client.recv().await, notification);
    }
    // Now it reads everything, and answers in the order in which it was asked.
    while let Ok(incoming) = timeout(Duration::from_millis(1), program.0.1.recv()).await {
        let Incoming::Message(message) = incoming else { panic!("{incoming:?}") };
        let message: Value = serde_json::from_slice(&message).unwrap();
        program.send(result(&message["id"])).await;
    }
    client.is_served_by(&mut program).await;
    assert_eq!(test.finish(client, program).await.restarted, 0);
}

#[tokio::test(start_paused = true)]
async fn clients_never_see_pings_and_idle_programs_live_on() {
    for model in [ProcessModel::PerClient, ProcessModel::Shared] {
        let mut test = Test::start(model, Dialect::MCP, RestartPolicy::OnFailure);
        let (mut client, mut program) = test.opened().await;
        let pings = answer_pings(&mut program, 100 * INTERVAL).await;
        assert!((99..=101).contains(&pings), "{pings}");
        let seen = timeout(Duration::from_millis(1), client.0.1.recv()).await;
        assert!(seen.is_err(), "{seen:?}");
        let report = test.finish(client, program).await;
        assert_eq!((report.restarted, report.lost), (0, 0));
    }
}

/// It may still be installing what it runs.
#[tokio::test(start_paused = true)]
async fn program_that_takes_long_to_start_is_not_pinged() {
    let mut test = Test::start(ProcessModel::PerClient, Dialect::MCP, RestartPolicy::OnFailure);
    let mut client = test.client();
    client.send(initialize()).await;
    let mut program = test.program().await;
    sleep(100 * INTERVAL).await;
    open(&mut program).await;
    assert_eq!(client.recv().await["result"], offer());
    assert_eq!(test.finish(client, program).await.restarted, 0);
}

#[tokio::test(start_paused = true)]
async fn program_whose_client_has_ended_its_input_is_not_pinged() {
    let mut test = Test::start(ProcessModel::PerClient, Dialect::MCP, RestartPolicy::OnFailure);
    let (mut client, mut program) = test.opened().await;
    client.send(call(1)).await;
    assert_eq!(program.recv().await, call(1));
    client.0.0.close().await.unwrap();
    program.ended().await;
    sleep(100 * INTERVAL).await;
    program.send(result(&json!(1))).await;
    assert_eq!(client.recv().await, result(&json!(1)));
    assert_eq!(test.finish(client, program).await.restarted, 0);
}

#[tokio::test(start_paused = true)]
async fn dialects_without_a_ping_are_not_pinged() {
    for dialect in [Dialect::STRICT, Dialect::LSP, Dialect::ACP, Dialect::XI] {
        assert_eq!(dialect.ping, None);
        let mut test = Test::start(ProcessModel::PerClient, dialect, RestartPolicy::OnFailure);
        let (client, mut program) = test.opened().await;
        let seen = timeout(100 * INTERVAL, program.0.1.recv()).await;
        assert!(seen.is_err(), "{}: {seen:?}", dialect.name);
        test.finish(client, program).await;
    }
}
