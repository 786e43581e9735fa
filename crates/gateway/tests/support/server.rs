//! A server's clients and programs, whose parts a test plays.

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tieline_transport::{
    Backing, BoxChannel, BoxFuture, Capabilities, Channel, ChildExit, CloseReason, Control,
    ControlBuilder, DynAcceptor, DynConnector, Endpoint, ErrorKind, Incoming, MemoryChannel,
    Operation, Principal, Receiver, ReceiverExt, SenderExt, TransportError, TransportKind,
    memory_pair,
};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

type Half = (<MemoryChannel as Channel>::Sender, <MemoryChannel as Channel>::Receiver);

/// A connector to programs whose part the test plays.
#[derive(Clone)]
pub(crate) struct Programs {
    pub(crate) started: mpsc::UnboundedSender<Peer>,
    pub(crate) attempts: Arc<AtomicUsize>,
    pub(crate) fails: Arc<AtomicBool>,
}

impl DynConnector for Programs {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async {
            self.attempts.fetch_add(1, Relaxed);
            if self.fails.load(Relaxed) {
                return Err(TransportError::new(ErrorKind::LaunchFailed, Operation::Launch));
            }
            let (far, program) = memory_pair();
            let (running, has_exited) = watch::channel(());
            self.started.send(Peer(program.split(), Some(running))).unwrap();
            let (sender, receiver) = far.split();
            let control = control(Arc::new(Running(has_exited)));
            let receiver = Box::new(OfProgram { receiver, control: control.clone() });
            Ok(BoxChannel::from_parts(Box::new(sender), receiver, control))
        })
    }
}

pub(crate) fn control(backing: Arc<dyn Backing>) -> Control {
    let capabilities = Capabilities { half_close: true, ..Capabilities::default() };
    let profile = memory_pair().0.control().profile();
    let (kind, endpoint) = (TransportKind::PROCESS, "exec:program".parse().unwrap());
    ControlBuilder { kind, endpoint, peer: None, capabilities, profile, backing }.build()
}

/// A program that runs until its sender is dropped, and has then failed.
struct Running(watch::Receiver<()>);

impl Backing for Running {
    fn exited(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let mut running = self.0.clone();
        Box::pin(async move {
            while running.changed().await.is_ok() {}
            Some(exit())
        })
    }
}

struct OfProgram<R> {
    receiver: R,
    control: Control,
}

impl<R: Receiver> Receiver for OfProgram<R> {
    fn poll_recv(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Incoming> {
        self.receiver.poll_recv(cx).map(|incoming| match incoming {
            Incoming::End(_) => {
                Incoming::End(self.control.end(CloseReason::ChildExited(Arc::new(exit()))))
            }
            other => other,
        })
    }
}

fn exit() -> ChildExit {
    #[cfg(unix)]
    use std::os::unix::process::ExitStatusExt;
    #[cfg(windows)]
    use std::os::windows::process::ExitStatusExt;
    ChildExit {
        status: std::process::ExitStatus::from_raw(if cfg!(unix) { 3 << 8 } else { 3 }),
        stderr_tail: b"out of luck\n".to_vec().into(),
        unterminated: false,
        truncated: None,
        unread: None,
        guardian_lost: false,
    }
}

/// An acceptor of the clients that the test hands over.
pub(crate) struct TestAcceptor(pub(crate) mpsc::UnboundedReceiver<BoxChannel>, pub(crate) Endpoint);

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

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(3600), future).await.expect("a hang")
}

/// A client, or a program, which exits when it is dropped.
pub(crate) struct Peer(pub(crate) Half, pub(crate) Option<watch::Sender<()>>);

impl Peer {
    pub(crate) async fn send(&mut self, message: Value) {
        self.0.0.send(message.to_string()).await.unwrap();
    }

    pub(crate) async fn recv(&mut self) -> Value {
        match within(self.0.1.recv()).await {
            Incoming::Message(message) => serde_json::from_slice(&message).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn ended(&mut self) {
        let incoming = within(self.0.1.recv()).await;
        assert!(matches!(incoming, Incoming::End(_)), "{incoming:?}");
    }

    /// Makes a call that this program answers.
    pub(crate) async fn is_served_by(&mut self, program: &mut Self) {
        self.send(call(1)).await;
        assert_eq!(program.recv().await, call(1));
        program.send(json!({"jsonrpc": "2.0", "id": 1, "result": {}})).await;
        assert_eq!(self.recv().await["id"], 1);
    }

    pub(crate) async fn refusal(&mut self) -> String {
        self.send(call(1)).await;
        let answer = self.recv().await;
        assert_eq!(answer["error"]["code"], -31000, "{answer}");
        answer["error"]["message"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn call(id: u32) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {}})
}

/// A client that was authenticated.
struct Authenticated(Option<Principal>);

impl Backing for Authenticated {
    fn principal(&self) -> Option<Principal> {
        self.0
    }
}

/// Returns a client, and the server's side of its line.
pub(crate) fn client(principal: Option<u8>) -> (Peer, BoxChannel) {
    let (client, near) = memory_pair();
    let (sender, receiver) = near.split();
    let principal = principal.map(|number| Principal::new([number; 32]));
    let control = control(Arc::new(Authenticated(principal)));
    let near = BoxChannel::from_parts(Box::new(sender), Box::new(receiver), control);
    (Peer(client.split(), None), near)
}
