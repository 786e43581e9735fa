//! Many remote clients whose server is killed and restarted, over real sockets.
//!
//! By default there are 200 clients, all of which must reconnect. With `TIELINE_SOAK=1` there are
//! 10,000, of which at most 3 % may reconnect within any 100 ms. This needs 10,000 descriptors in each
//! of two processes; with fewer, the test uses fewer clients and prints their number.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tieline_link::{LineOptions, Session, SessionOptions, listen};
use tieline_testkit::{helper, test_name};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, DynConnector, Endpoint, Incoming, Options, ReceiverExt,
    Registry, SenderExt, TransportError,
};
use tokio::task::JoinSet;

const SAMPLE: usize = 200;
const SOAK: usize = 10_000;
const BIN: Duration = Duration::from_millis(100);
/// The environment variable with the port that the server listens on.
const PORT: &str = "TIELINE_TEST_PORT";

/// Raises the limit on descriptors, and returns it.
fn descriptors() -> usize {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    most.map_or(usize::MAX, |most| most as usize)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn serve() {
    descriptors();
    let port: u16 = std::env::var(PORT).unwrap().parse().unwrap();
    // Exit together with the parent process.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
    runtime().block_on(async {
        let endpoint: Endpoint = format!("resume+tcp:127.0.0.1:{port}").parse().unwrap();
        let options = Options { allow_unauthenticated_tcp: true, ..Options::default() };
        let sessions = SessionOptions { max_sessions: 2 * SOAK, ..SessionOptions::default() };
        let mut acceptor = listen(&Registry::new(), &endpoint, &options, sessions).await.unwrap();
        println!("\nserves {}", acceptor.endpoint());
        let mut served = JoinSet::new();
        while let Ok(session) = acceptor.accept().await {
            served.spawn(async move {
                let (mut sender, mut receiver) = session.split();
                while let Incoming::Message(message) = receiver.recv().await {
                    let _ = sender.send(message).await;
                }
            });
        }
    });
}

/// A server in another process, which is killed on drop.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(server: &mut Command, port: u16) -> Self {
        let server = server.env(PORT, port.to_string()).stdin(Stdio::piped());
        let mut process = server.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let endpoint = lines.find(|line| line.starts_with("serves ")).unwrap();
        let port = endpoint.rsplit_once(':').unwrap().1.parse().unwrap();
        Self { process, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connector that records when it is called.
struct RecordingConnector {
    connector: Arc<dyn DynConnector>,
    at: Mutex<Vec<Instant>>,
}

impl DynConnector for RecordingConnector {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        self.at.lock().unwrap().push(Instant::now());
        self.connector.connect()
    }
}

async fn client(connector: Arc<dyn DynConnector>) -> (Session, Arc<RecordingConnector>) {
    let asked = Arc::new(RecordingConnector { connector, at: Mutex::default() });
    let (options, line) = (SessionOptions::default(), LineOptions::default());
    let session = Session::connect(asked.clone(), options, line).await.unwrap();
    (session, asked)
}

async fn reconnect(session: Session) {
    let (mut sender, mut receiver) = session.split();
    match receiver.recv().await {
        Incoming::Reset(_) => {}
        other => panic!("{other:?}"),
    }
    sender.send("reconnected").await.unwrap();
    assert!(matches!(receiver.recv().await, Incoming::Message(_)));
}

#[test]
fn clients_reconnect_to_a_restarted_server_but_not_all_at_once() {
    let mut server = helper::plain(test_name!(), serve);
    let is_long = std::env::var_os("TIELINE_SOAK").is_some();
    let wanted = if is_long { SOAK } else { SAMPLE };
    let clients = wanted.min(descriptors() - 200);
    if clients < wanted {
        println!("only {clients} of {wanted} clients, because of the limit on descriptors");
    }
    let first = Server::start(&mut server, 0);
    let port = first.port;
    let (tries, took) = runtime().block_on(async {
        let endpoint: Endpoint = format!("length-prefix+tcp:127.0.0.1:{port}").parse().unwrap();
        let connector: Arc<dyn DynConnector> =
            Registry::new().connector(&endpoint, &Options::default()).unwrap().into();
        let mut connected = Vec::new();
        for _ in 0..clients {
            connected.push(client(connector.clone()).await);
        }
        let killed = Instant::now();
        drop(first);
        let second = Server::start(&mut server, port);
        let restarted = killed.elapsed();
        let mut reconnecting = JoinSet::new();
        let mut all = Vec::new();
        for (session, asked) in connected {
            reconnecting.spawn(reconnect(session));
            all.push(asked);
        }
        let reconnected =
            tokio::time::timeout(Duration::from_secs(300), reconnecting.join_all()).await;
        let took = killed.elapsed();
        drop(second);
        assert!(reconnected.is_ok(), "not all clients have reconnected");
        println!("the server was down for {restarted:?}");
        let first = |asked: &Arc<RecordingConnector>| {
            let at = asked.at.lock().unwrap();
            *at.iter().find(|at| **at > killed).unwrap() - killed
        };
        (all.iter().map(first).collect::<Vec<_>>(), took)
    });
    let mut bins = vec![0_usize; 60];
    for first_try in tries {
        let bin = (first_try.as_millis() / BIN.as_millis()) as usize;
        bins[bin.min(59)] += 1;
    }
    assert_eq!(bins.iter().sum::<usize>(), clients);
    let most = *bins.iter().max().unwrap();
    let share = most as f64 * 100.0 / clients as f64;
    println!(
        "{clients} clients had reconnected after {took:?}; at most {most} ({share:.1} %) in {BIN:?}:"
    );
    println!("{bins:?}");
    assert!(!is_long || most * 100 <= clients * 3, "{share:.1} %");
}
