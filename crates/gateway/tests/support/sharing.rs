//! A server whose clients share programs. The test plays the parts of the clients and of the programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tieline_gateway::{Bridge, ProcessModel, Processes, Server, ServerReport, ServerWatch};
use tieline_proto::RestartPolicy;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    Backing, BoxChannel, BoxFuture, Capabilities, Channel, ChildExit, CloseReason, Control,
    ControlBuilder, DynAcceptor, DynConnector, Endpoint, Incoming, MemoryChannel, Principal,
    Receiver, ReceiverExt, SenderExt, TransportError, TransportKind, memory_pair,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub(crate) type Half = (<MemoryChannel as Channel>::Sender, <MemoryChannel as Channel>::Receiver);

/// A connector to programs whose part the test plays.
pub(crate) struct Programs(mpsc::UnboundedSender<MemoryChannel>);

impl DynConnector for Programs {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        let (far, program) = memory_pair();
        self.0.send(program).unwrap();
        let (sender, receiver) = far.split();
        let control = control(Arc::new(Killed), TransportKind::PROCESS, "exec:program");
        let receiver = Box::new(OfProgram { receiver, control: control.clone() });
        Box::pin(async { Ok(BoxChannel::from_parts(Box::new(sender), receiver, control)) })
    }
}

pub(crate) fn control(backing: Arc<dyn Backing>, kind: TransportKind, endpoint: &str) -> Control {
    let endpoint: Endpoint = endpoint.parse().unwrap();
    let capabilities = Capabilities { half_close: true, ..Capabilities::default() };
    let profile = memory_pair().0.control().profile();
    ControlBuilder { kind, endpoint, peer: None, capabilities, profile, backing }.build()
}

/// A program that has failed when its output ends.
pub(crate) struct Killed;

impl Backing for Killed {}

pub(crate) struct OfProgram<R> {
    receiver: R,
    control: Control,
}

impl<R: Receiver> Receiver for OfProgram<R> {
    fn poll_recv(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Incoming> {
        self.receiver.poll_recv(cx).map(|incoming| match incoming {
            Incoming::End(_) => Incoming::End(self.control.end(exited())),
            other => other,
        })
    }
}

#[cfg(unix)]
pub(crate) fn exited() -> CloseReason {
    use std::os::unix::process::ExitStatusExt;
    CloseReason::ChildExited(Arc::new(ChildExit {
        status: std::process::ExitStatus::from_raw(3 << 8),
        stderr_tail: b"out of luck\n".to_vec().into(),
        unterminated: false,
        truncated: None,
        unread: None,
        guardian_lost: false,
    }))
}

#[cfg(windows)]
pub(crate) fn exited() -> CloseReason {
    use std::os::windows::process::ExitStatusExt;
    CloseReason::ChildExited(Arc::new(ChildExit {
        status: std::process::ExitStatus::from_raw(3),
        stderr_tail: b"out of luck\n".to_vec().into(),
        unterminated: false,
        truncated: None,
        unread: None,
        guardian_lost: false,
    }))
}

/// An acceptor of the clients that the test hands over.
pub(crate) struct TestAcceptor(mpsc::UnboundedReceiver<BoxChannel>, Endpoint);

impl DynAcceptor for TestAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async {
            match self.0.recv().await {
                Some(client) => Ok(client),
                None => pending().await,
            }
        })
    }

    fn endpoint(&self) -> &Endpoint {
        &self.1
    }
}

/// A client that was authenticated.
pub(crate) struct Authenticated(Option<Principal>);

impl Backing for Authenticated {
    fn principal(&self) -> Option<Principal> {
        self.0
    }
}

pub(crate) struct Test {
    pub(crate) acceptor: mpsc::UnboundedSender<BoxChannel>,
    pub(crate) programs: mpsc::UnboundedReceiver<MemoryChannel>,
    pub(crate) watch: ServerWatch,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) report: JoinHandle<ServerReport>,
}

impl Test {
    pub(crate) fn start(processes: Processes, restart: RestartPolicy) -> Self {
        let bridge = Bridge { dialect: Some(Dialect::MCP), ..Bridge::default() };
        let mut server = Server::new(1024, bridge);
        server.processes(processes).unwrap();
        server.restart(restart);
        let (acceptor, clients) = mpsc::unbounded_channel();
        let (started, programs) = mpsc::unbounded_channel();
        server.add(
            Box::new(TestAcceptor(clients, Endpoint::memory("listener"))),
            Arc::new(Programs(started)),
        );
        let (watch, (stop, stopped)) = (server.watch(), oneshot::channel());
        let report = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { acceptor, programs, watch, stop, report }
    }

    pub(crate) fn shared() -> Self {
        Self::start(model(ProcessModel::Shared), RestartPolicy::Never)
    }

    pub(crate) fn client(&self, principal: Option<u8>) -> Peer {
        let (client, near) = memory_pair();
        let (sender, receiver) = near.split();
        let principal = principal.map(|number| Principal::new([number; 32]));
        let control = control(Arc::new(Authenticated(principal)), TransportKind::MEMORY, "mem:c");
        let near = BoxChannel::from_parts(Box::new(sender), Box::new(receiver), control);
        self.acceptor.send(near).unwrap();
        Peer(client.split())
    }

    pub(crate) async fn program(&mut self) -> Peer {
        Peer(self.programs.recv().await.unwrap().split())
    }

    /// Adds a client that completes the handshake with a program that is already running.
    pub(crate) async fn joined(&self, principal: Option<u8>) -> Peer {
        let mut client = self.client(principal);
        client.send(initialize()).await;
        assert_eq!(client.recv().await["result"], offer());
        client.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        client
    }

    /// Adds the first client of a program. Returns both.
    pub(crate) async fn opened(&mut self, principal: Option<u8>) -> (Peer, Peer) {
        let mut client = self.client(principal);
        client.send(initialize()).await;
        let mut program = self.program().await;
        program.open().await;
        assert_eq!(client.recv().await["result"], offer());
        client.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!(program.recv().await["method"], "notifications/initialized");
        (client, program)
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&ServerWatch) -> bool) {
        let wait = async {
            while !is_so(&self.watch) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), wait).await.expect(what);
    }

    pub(crate) async fn stop(self) -> ServerReport {
        self.stop.send(()).unwrap();
        self.report.await.unwrap()
    }
}

pub(crate) fn model(model: ProcessModel) -> Processes {
    Processes { model, ..Processes::default() }
}

/// A client, or a program.
pub(crate) struct Peer(pub(crate) Half);

impl Peer {
    pub(crate) async fn send(&mut self, message: Value) {
        self.0.0.send(message.to_string()).await.unwrap();
    }

    pub(crate) async fn recv(&mut self) -> Value {
        match self.0.1.recv().await {
            Incoming::Message(message) => serde_json::from_slice(&message).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn ended(&mut self) {
        let incoming = self.0.1.recv().await;
        assert!(matches!(incoming, Incoming::End(_)), "{incoming:?}");
    }

    /// Answers the handshake, as the program.
    pub(crate) async fn open(&mut self) {
        let request = self.recv().await;
        assert_eq!(request["method"], "initialize");
        self.send(json!({"jsonrpc": "2.0", "id": request["id"], "result": offer()})).await;
    }
}

pub(crate) fn initialize() -> Value {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {"roots": {}}});
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
}

pub(crate) fn offer() -> Value {
    json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}})
}

pub(crate) fn call(id: impl Into<Value>, data: impl Into<Value>) -> Value {
    let params = json!({"name": "echo", "arguments": data.into()});
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": params})
}

pub(crate) fn result(id: &Value, result: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result.into()})
}

/// Makes a call, and asserts that it reaches this program.
pub(crate) async fn served(client: &mut Peer, program: &mut Peer) {
    client.send(call(1, 1)).await;
    let request = program.recv().await;
    program.send(result(&request["id"], "done")).await;
    assert_eq!(client.recv().await, result(&json!(1), "done"));
}
