//! Programs that a server starts before their clients connect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::json;
use support::server::{Peer, Programs, TestAcceptor, call, client, within};
use tieline_gateway::{
    Bridge, NotShareable, PoolView, ProcessModel, Processes, Server, ServerReport, ServerWatch,
};
use tieline_proto::RestartPolicy;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{BoxChannel, Endpoint};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

struct Test {
    acceptor: mpsc::UnboundedSender<BoxChannel>,
    connector: Programs,
    programs: mpsc::UnboundedReceiver<Peer>,
    watch: ServerWatch,
    stop: oneshot::Sender<()>,
    report: JoinHandle<ServerReport>,
}

impl Test {
    fn start(processes: Processes, restart: RestartPolicy) -> Self {
        let (started, programs) = mpsc::unbounded_channel();
        let connector =
            Programs { started, attempts: Arc::default(), fails: Arc::new(AtomicBool::new(false)) };
        Self::with(connector, programs, processes, restart)
    }

    fn with(
        connector: Programs,
        programs: mpsc::UnboundedReceiver<Peer>,
        processes: Processes,
        restart: RestartPolicy,
    ) -> Self {
        let bridge = Bridge { dialect: Some(Dialect::MCP), ..Bridge::default() };
        let mut server = Server::new(1024, bridge);
        server.processes(processes).unwrap();
        server.restart(restart);
        let (acceptor, clients) = mpsc::unbounded_channel();
        let listener = TestAcceptor(clients, Endpoint::memory("listener"));
        server.add(Box::new(listener), Arc::new(connector.clone()));
        let (watch, (stop, stopped)) = (server.watch(), oneshot::channel());
        let report = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { acceptor, connector, programs, watch, stop, report }
    }

    fn client(&self) -> Peer {
        let (client, near) = client(None);
        self.acceptor.send(near).unwrap();
        client
    }

    async fn program(&mut self) -> Peer {
        within(self.programs.recv()).await.unwrap()
    }

    fn view(&self) -> PoolView {
        self.watch.now().programs.unwrap().pool.unwrap()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is_so(self) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(3600), wait).await.expect(what);
    }

    async fn until_pool(&self, warm: usize, in_use: usize) {
        let is_so = |test: &Self| (test.view().warm, test.view().in_use) == (warm, in_use);
        self.until(&format!("{warm} warm and {in_use} in use"), is_so).await;
    }

    async fn stop(self) -> ServerReport {
        self.stop.send(()).unwrap();
        within(self.report).await.unwrap()
    }
}

fn pool(warm: usize, max_programs: usize) -> Processes {
    let model = ProcessModel::Pool(NonZeroUsize::new(warm).unwrap());
    Processes { model, max_programs, ..Processes::default() }
}

#[tokio::test]
async fn programs_are_started_ahead_and_used_by_one_client_each() {
    let mut test = Test::start(pool(2, 64), RestartPolicy::Never);
    let (mut one, mut two) = (test.program().await, test.program().await);
    test.until_pool(2, 0).await;
    let mut first = test.client();
    // The program that has run for longest is used first.
    first.is_served_by(&mut one).await;
    // It is replaced before its client has left.
    let mut three = test.program().await;
    test.until_pool(2, 1).await;
    drop(first);
    one.ended().await;
    drop(one);
    test.until_pool(2, 0).await;
    for program in [&mut two, &mut three] {
        let mut client = test.client();
        client.is_served_by(program).await;
        drop(client);
        program.ended().await;
    }
    drop((two, three));
    let more = [test.program().await, test.program().await];
    test.until_pool(2, 0).await;
    assert_eq!(test.connector.attempts.load(Relaxed), 5);
    let stopping = test.stop();
    drop(more);
    let report = stopping.await;
    assert_eq!((report.served, report.refused, report.lost), (3, 0, 0));
}

#[tokio::test]
async fn client_without_a_warm_program_gets_one_within_the_limit() {
    let mut test = Test::start(pool(1, 3), RestartPolicy::Never);
    let mut served = Vec::new();
    for _ in 0..3 {
        let mut client = test.client();
        let mut program = test.program().await;
        client.is_served_by(&mut program).await;
        served.push((client, program));
    }
    test.until_pool(0, 3).await;
    let why = test.client().refusal().await;
    assert!(why.contains("too many programs: the limit of 3 is reached"), "{why}");
    // A place that becomes free is for a warm program, or for a client that connects first.
    drop(served.pop());
    test.until_pool(1, 2).await;
    let mut program = test.program().await;
    let mut client = test.client();
    client.is_served_by(&mut program).await;
    drop((client, program, served));
    let report = test.stop().await;
    assert_eq!((report.served, report.refused), (4, 1));
}

#[tokio::test]
async fn first_output_of_a_warm_program_reaches_its_client() {
    let mut test = Test::start(pool(1, 64), RestartPolicy::Never);
    let mut program = test.program().await;
    let hello = |number: u32| json!({"jsonrpc": "2.0", "method": "hello", "params": [number]});
    program.send(hello(1)).await;
    program.send(hello(2)).await;
    test.until_pool(1, 0).await;
    let mut client = test.client();
    assert_eq!(client.recv().await, hello(1));
    assert_eq!(client.recv().await, hello(2));
    client.is_served_by(&mut program).await;
    drop((client, program));
    test.stop().await;
}

#[tokio::test(start_paused = true)]
async fn warm_programs_that_keep_failing_are_started_less_and_less_often() {
    let mut test = Test::start(pool(4, 64), RestartPolicy::Never);
    let begun = Instant::now();
    let mut starts = 0;
    while let Ok(Some(program)) = timeout(Duration::from_secs(60), test.programs.recv()).await {
        // It ends when it is dropped.
        drop(program);
        starts += 1;
        if begun.elapsed() > Duration::from_secs(60) {
            break;
        }
    }
    assert!((15..=40).contains(&starts), "{starts}");
    // Once a program has run for a while, the pool is filled without pauses.
    let mut programs = vec![test.program().await];
    tokio::time::sleep(Duration::from_secs(15)).await;
    while programs.len() < 4 {
        programs.push(test.program().await);
    }
    test.until_pool(4, 0).await;
    let before = Instant::now();
    drop(programs.remove(0));
    programs.push(test.program().await);
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    drop(programs);
    test.stop().await;
}

#[tokio::test(start_paused = true)]
async fn program_that_cannot_be_started_is_tried_rarely_and_clients_get_the_reason() {
    let (started, programs) = mpsc::unbounded_channel();
    let fails = Arc::new(AtomicBool::new(true));
    let connector = Programs { started, attempts: Arc::default(), fails: fails.clone() };
    let mut test = Test::with(connector, programs, pool(4, 64), RestartPolicy::Never);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let attempts = test.connector.attempts.load(Relaxed);
    assert!((10..=30).contains(&attempts), "{attempts}");
    let why = test.client().refusal().await;
    assert!(why.contains("could not be started"), "{why}");
    fails.store(false, Relaxed);
    let mut program = test.program().await;
    test.client().is_served_by(&mut program).await;
    drop(program);
    test.stop().await;
}

#[tokio::test]
async fn restarted_program_is_another_one_of_the_pool_with_the_handshake_of_its_client() {
    let mut test = Test::start(pool(2, 64), RestartPolicy::OnFailure);
    let (mut one, mut two) = (test.program().await, test.program().await);
    let mut client = test.client();
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
    let initialize = json!({"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": params});
    let offer = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}});
    let answer = json!({"jsonrpc": "2.0", "id": "a", "result": offer});
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    client.send(initialize.clone()).await;
    assert_eq!(one.recv().await, initialize);
    one.send(answer.clone()).await;
    assert_eq!(client.recv().await, answer);
    client.send(initialized.clone()).await;
    assert_eq!(one.recv().await, initialized);
    client.send(call(7)).await;
    one.recv().await;
    drop(one);
    let error = client.recv().await;
    assert_eq!((&error["id"], &error["error"]["data"]["code"]), (&json!(7), &json!(3)));
    assert_eq!(error["error"]["data"]["stderr"], "out of luck\n");
    // The second program was warm.
    assert_eq!(two.recv().await, initialize);
    two.send(answer).await;
    assert_eq!(two.recv().await, initialized);
    client.is_served_by(&mut two).await;
    test.until_pool(2, 1).await;
    drop((client, two));
    assert_eq!(test.stop().await.restarted, 1);
}

#[tokio::test]
async fn stop_ends_warm_programs_while_lines_drain() {
    let mut test = Test::start(pool(2, 64), RestartPolicy::Never);
    let (mut used, mut warm) = (test.program().await, test.program().await);
    let mut client = test.client();
    client.send(call(1)).await;
    used.recv().await;
    let mut other = test.program().await;
    test.stop.send(()).unwrap();
    // Their input ends first, before the line of the client has ended.
    warm.ended().await;
    other.ended().await;
    drop((warm, other));
    used.send(json!({"jsonrpc": "2.0", "id": 1, "result": {}})).await;
    assert_eq!(client.recv().await["id"], 1);
    drop((client, used));
    let report = within(test.report).await.unwrap();
    assert_eq!(report.served, 1);
    // None was started meanwhile.
    assert_eq!(test.connector.attempts.load(Relaxed), 3);
}

#[tokio::test]
async fn dropped_server_drops_its_warm_programs() {
    let mut test = Test::start(pool(2, 64), RestartPolicy::Never);
    let mut programs = [test.program().await, test.program().await];
    test.until_pool(2, 0).await;
    test.report.abort();
    for program in &mut programs {
        program.ended().await;
    }
}

#[test]
fn pool_is_for_every_dialect_and_at_most_as_large_as_the_limit() {
    for dialect in Dialect::ALL.map(Some).into_iter().chain([None]) {
        let mut server = Server::new(1, Bridge { dialect, ..Bridge::default() });
        assert_eq!(server.processes(pool(4, 4)), Ok(()));
        let refused = server.processes(pool(5, 4)).unwrap_err();
        assert_eq!(refused, NotShareable::PoolTooLarge { limit: 4 });
        assert_eq!(refused.to_string(), "at most 4 programs may run");
    }
}

#[test]
fn names_of_models_are_parsed_and_displayed() {
    for name in ["per-client", "shared", "per-user", "pool:1", "pool:64"] {
        assert_eq!(name.parse::<ProcessModel>().unwrap().to_string(), name);
    }
    for name in ["", "pool", "pool:", "pool:0", "pool:x", "pool:-1", "pool:+1", "pool: 1", "Shared"]
    {
        let refused = name.parse::<ProcessModel>().unwrap_err().to_string();
        assert!(refused.contains("pool:N with N from 1"), "{name:?}: {refused}");
    }
    assert!("pool:99999999999999999999999".parse::<ProcessModel>().is_err());
}
