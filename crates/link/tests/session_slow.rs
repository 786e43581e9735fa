//! One client among a thousand that does not read, over real sockets.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/by_hand.rs"]
mod by_hand;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tieline_link::{LineOptions, Session, SessionOptions, Sessions};
use tieline_proto::session::{Frame, Position, Welcome};
use tieline_testkit::wait;
use tieline_transport::{
    Acceptor, BoxChannel, BoxFuture, Channel, CloseReason, Control, DynAcceptor, DynConnector,
    Endpoint, Incoming, Options, ReceiverExt, Registry, SenderExt, TransportError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use by_hand::{ByHand, hello};

/// The number of other clients.
const OTHERS: usize = 999;
/// The request for a flood of [`MESSAGES`] messages of [`LENGTH`] bytes.
const FLOOD: &str = "flood";
const MESSAGES: u64 = 2_000;
const LENGTH: usize = 16 << 10;
/// How many of these messages a server keeps for a client that acknowledges nothing; 8 MiB in total.
const KEPT: u64 = (8 << 20) / LENGTH as u64;

/// A server of sessions, in this process.
struct Stage {
    endpoint: Endpoint,
    /// How many messages of the flood the session accepted.
    taken: Arc<AtomicU64>,
    /// The controls of all connections, in order of arrival.
    controls: Arc<Mutex<Vec<Control>>>,
    _serving: JoinSet<()>,
    _directory: TempDir,
}

impl Stage {
    async fn new(stall_timeout: Duration) -> Self {
        let most = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::unix(directory.path().join("s")).resumable().carrier();
        let mut options = Options::default();
        options.channel.stall_timeout = stall_timeout;
        let acceptor = Registry::new().listen(&endpoint, &options).await.unwrap();
        let (taken, controls) = (Arc::<AtomicU64>::default(), Arc::<Mutex<_>>::default());
        let acceptor = Box::new(Watched { acceptor, controls: controls.clone() });
        let mut sessions =
            Sessions::new(acceptor, SessionOptions::default(), LineOptions::default());
        let mut serving = JoinSet::new();
        let counted = taken.clone();
        serving.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok(session) = Acceptor::accept(&mut sessions).await {
                served.spawn(serve(session, counted.clone()));
            }
        });
        Self { endpoint, taken, controls, _serving: serving, _directory: directory }
    }

    fn connector(&self) -> Arc<dyn DynConnector> {
        Registry::new().connector(&self.endpoint, &Options::default()).unwrap().into()
    }

    /// Connects a client that requests the flood, and returns its socket, which nothing else reads.
    async fn slow(&self) -> (UnixStream, Welcome) {
        let (_, path) = self.endpoint.to_string().split_once("unix:").map(own).unwrap();
        let mut slow = UnixStream::connect(path).await.unwrap();
        send_frame(&mut slow, &Frame::Hello(hello(None)).to_bytes()).await;
        let length = slow.read_u32().await.unwrap();
        let mut welcome = vec![0; length as usize];
        slow.read_exact(&mut welcome).await.unwrap();
        let Ok(Frame::Welcome(welcome)) = Frame::decode(welcome.into()) else { panic!() };
        let message = Bytes::from_static(FLOOD.as_bytes());
        let flood = Frame::Data { sequence: 1, acknowledged: 0, message };
        send_frame(&mut slow, &flood.to_bytes()).await;
        (slow, welcome)
    }

    /// Connects the other clients, each of which makes `calls` calls, one after the other. Passes the
    /// duration of each call to `each`.
    async fn call(
        &self,
        others: usize,
        calls: usize,
        each: impl Fn(Duration) + Clone + Send + 'static,
    ) {
        let connector = self.connector();
        let mut connected = Vec::new();
        for _ in 0..others {
            let (options, line) = (SessionOptions::default(), LineOptions::default());
            connected.push(Session::connect(connector.clone(), options, line).await.unwrap());
        }
        let mut calling = JoinSet::new();
        for (number, session) in connected.into_iter().enumerate() {
            let each = each.clone();
            calling.spawn(async move {
                let (mut sender, mut receiver) = session.split();
                for call in 0..calls {
                    let begun = Instant::now();
                    let message = format!("{number}: {call}");
                    sender.send(message.clone()).await.unwrap();
                    match receiver.recv().await {
                        Incoming::Message(answer) => assert_eq!(answer, message),
                        other => panic!("{other:?}"),
                    }
                    each(begun.elapsed());
                }
            });
        }
        calling.join_all().await;
    }
}

fn own((one, other): (&str, &str)) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

async fn send_frame(to: &mut UnixStream, frame: &[u8]) {
    to.write_u32(frame.len() as u32).await.unwrap();
    to.write_all(frame).await.unwrap();
}

async fn serve(session: Session, taken: Arc<AtomicU64>) {
    let (mut sender, mut receiver) = session.split();
    while let Incoming::Message(message) = receiver.recv().await {
        if message != FLOOD {
            sender.send(message).await.unwrap();
            continue;
        }
        for number in 0..MESSAGES {
            let mut flood = vec![0; LENGTH];
            flood[..8].copy_from_slice(&number.to_be_bytes());
            if sender.feed(flood).await.is_err() {
                return;
            }
            taken.fetch_add(1, Ordering::Relaxed);
        }
        sender.flush().await.unwrap();
    }
}

/// An acceptor that records the control of every connection.
struct Watched {
    acceptor: Box<dyn DynAcceptor>,
    controls: Arc<Mutex<Vec<Control>>>,
}

impl DynAcceptor for Watched {
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async move {
            let line = self.acceptor.accept().await?;
            self.controls.lock().unwrap().push(line.control().clone());
            Ok(line)
        })
    }

    fn endpoint(&self) -> &Endpoint {
        self.acceptor.endpoint()
    }
}

#[test]
fn client_that_does_not_read_uses_bounded_memory_and_gets_everything_once_it_reads() {
    wait::block_on(async {
        let stage = Stage::new(Duration::from_secs(2)).await;
        let (slow, welcome) = stage.slow().await;
        // Read one byte each time another client has received its response.
        let slow = Arc::new(slow);
        let reading = slow.clone();
        stage.call(OTHERS, 10, move |_| _ = reading.try_read(&mut [0])).await;

        let taken = || stage.taken.load(Ordering::Relaxed);
        let control = stage.controls.lock().unwrap()[0].clone();
        let reason = control.clone();
        let filled = stage.taken.clone();
        let stalled = move || {
            wait::until("the buffer is full", || filled.load(Ordering::Relaxed) >= KEPT);
            wait::until("the connection has stalled", || reason.close_reason().is_some());
        };
        tokio::task::spawn_blocking(stalled).await.unwrap();
        let reason = control.close_reason();
        assert!(matches!(reason, Some(CloseReason::Stalled)), "{reason:?}");
        assert_eq!(taken(), KEPT, "exactly the kept messages must be accepted");

        // The client resumes and reads, and gets everything.
        let line = Registry::new().connect(&stage.endpoint, &Options::default()).await.unwrap();
        let mut again = ByHand::over(line);
        let position = Position { received: 0, acknowledged: 0, sent: 1 };
        let greeting = tieline_proto::session::Hello { position, ..hello(Some(&welcome)) };
        again.greet(greeting).await.unwrap();
        let mut received = 0;
        while received < MESSAGES {
            match again.next_frame().await {
                Some(Frame::Data { sequence, message, .. }) => {
                    assert_eq!(message[..8], received.to_be_bytes());
                    received += 1;
                    assert_eq!(sequence, received);
                    again.send_frame(Frame::Ack { acknowledged: received }).await;
                }
                Some(Frame::Ack { .. }) => {}
                other => panic!("{other:?} after {received}"),
            }
        }
    });
}

/// Measures latencies if `TIELINE_SOAK=1` is set: five times without and five times with the slow
/// client, in turn. Use `--release` for this.
#[test]
fn slow_client_at_most_doubles_the_latency_of_others() {
    let is_long = std::env::var_os("TIELINE_SOAK").is_some();
    let (rounds, others, calls) = if is_long { (5, OTHERS, 100) } else { (1, 50, 5) };
    let mut p99s = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (with_slow_client, p99s) in p99s.iter_mut().enumerate() {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            p99s.push(runtime.unwrap().block_on(p99(with_slow_client == 1, others, calls)));
        }
    }
    for p99s in &mut p99s {
        p99s.sort();
    }
    let [without, with] = p99s.map(|p99s| p99s[rounds / 2]);
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    println!(
        "p99 of {others} × {calls} calls: {without:?} without the slow client, {with:?} with it: {ratio:.2}"
    );
    assert!(!is_long || ratio <= 2.0);
}

async fn p99(with_slow_client: bool, others: usize, calls: usize) -> Duration {
    let stage = Stage::new(Duration::from_secs(10)).await;
    let is_over = Arc::new(AtomicBool::new(false));
    if with_slow_client {
        let ((mut slow, _), over) = (stage.slow().await, is_over.clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                slow.read_u8().await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    let took = Arc::new(Mutex::new(Vec::new()));
    let taking = took.clone();
    stage.call(others, calls, move |call| taking.lock().unwrap().push(call)).await;
    is_over.store(true, Ordering::Relaxed);
    let mut took = std::mem::take(&mut *took.lock().unwrap());
    assert_eq!(took.len(), others * calls);
    took.sort();
    took[took.len() * 99 / 100]
}
