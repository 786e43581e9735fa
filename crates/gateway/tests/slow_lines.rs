//! Long messages over slow lines, on real sockets and pipes of every kind: a line whose bytes move is
//! alive, and a line whose reader reads nothing is stalled. The tests run only on Linux, where the
//! kernel reports how much of a buffer was sent.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size;
use tieline_gateway::{Chaos, Faults};
use tieline_http::{
    ClientConfig, ClientTls, HttpServer, Place, ServerConfig, ServerTls, Token, WebSocketConfig,
};
use tieline_link::{LineOptions, SessionOptions, Sessions, connector, listen};
use tieline_proto::{ByteSize, HeartbeatConfig};
use tieline_transport::{
    BoxChannel, Channel, ChannelConfig, CloseReason, DynAcceptor, Endpoint, Incoming, Options,
    Receiver, ReceiverExt, Registry, SenderExt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// How long a write may make no progress: long enough for threads that wait for a busy processor.
const STALL: Duration = Duration::from_secs(6);
/// With these values, a line that receives nothing fails after 6 s.
const HEARTBEAT: HeartbeatConfig = HeartbeatConfig {
    idle: Duration::from_secs(2),
    timeout: Duration::from_secs(2),
    misses: 2,
    passes: 2,
};
/// The rate of slow lines, in bytes per second. The 64 KiB buffer of a TCP reader is filled about three
/// times per second.
const RATE: usize = 200_000;
/// The length of a long message, which takes twenty seconds at that rate, more than three times the
/// stall timeout.
const LONG: usize = 4_000_000;
/// A limit that only fails a test that hangs.
const LIMIT: Duration = Duration::from_secs(300);

const TOKEN: &str = "the-token-of-these-tests";

/// Every kind of line, and how many connections it uses if none is lost.
const KINDS: [(&str, u64); 10] = [
    ("unix", 1),
    ("tcp", 1),
    ("ws", 1),
    ("wss", 1),
    // One connection is for the events, and one is for the POSTs.
    ("http", 2),
    ("https", 2),
    ("resume+unix", 1),
    ("resume+tcp", 1),
    ("resume+ws", 1),
    ("resume+http", 2),
];

/// The heartbeat of a line, and how slow its relay is.
#[derive(Clone, Copy)]
struct Slow {
    rate: Option<usize>,
    heartbeat: HeartbeatConfig,
    /// The relay's TCP sockets have small receive buffers and are read in small pieces.
    is_narrow: bool,
}

fn options() -> Options {
    let channel = ChannelConfig {
        stall_timeout: STALL,
        program_stall_timeout: STALL,
        ..ChannelConfig::default()
    };
    let connect_timeout = LIMIT;
    Options { channel, connect_timeout, allow_unauthenticated_tcp: true, ..Options::default() }
}

fn session_options(heartbeat: HeartbeatConfig) -> SessionOptions {
    SessionOptions { heartbeat, handshake_timeout: LIMIT, ..SessionOptions::default() }
}

fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../http/tests/tls").join(name)
}

fn server(is_tls: bool, heartbeat: HeartbeatConfig) -> ServerConfig {
    let tls = ServerTls {
        certificate: certificate("server.pem"),
        key: certificate("server.key.pem"),
        client_roots: None,
    };
    let place = Place::Tcp { host: "127.0.0.1".into(), port: 0 };
    let mut config = ServerConfig::new(place, Token::new(TOKEN).unwrap());
    config.tls = is_tls.then_some(tls);
    // Any port is allowed, because clients connect to the port of the relay.
    config.hosts = vec!["127.0.0.1".into()];
    config.web_socket = WebSocketConfig {
        channel: options().channel,
        heartbeat: Some(heartbeat),
        ..WebSocketConfig::default()
    };
    config.limits.take_wait = STALL;
    config.limits.handshake_timeout = LIMIT;
    config
}

fn registry(heartbeat: HeartbeatConfig) -> Registry {
    let mut registry = Registry::new();
    let tls = ClientTls { extra_roots: Some(certificate("root.pem")), ..ClientTls::default() };
    let token = Some(Token::new(TOKEN).unwrap());
    let heartbeat = Some(heartbeat);
    let config = ClientConfig { token, tls, heartbeat, ..ClientConfig::default() };
    tieline_http::register(&mut registry, config);
    registry
}

/// The two ends of a line through a relay.
struct Line {
    client: BoxChannel,
    server: BoxChannel,
    relay: oneshot::Sender<()>,
    connections: std::thread::JoinHandle<u64>,
    _web: Option<HttpServer>,
    _directory: tempfile::TempDir,
}

impl Line {
    /// Connects a line of this kind through a slow relay.
    async fn new(kind: &str, Slow { rate, heartbeat, is_narrow }: Slow) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| Endpoint::unix(directory.path().join(name)).to_string();
        let any_port = "tcp:127.0.0.1:0".to_owned();
        let scheme = kind.trim_start_matches("resume+");
        let is_session = scheme != kind;
        let (registry, options) = (registry(heartbeat), options());
        let mut web = None;
        let mut acceptor: Box<dyn DynAcceptor> = match scheme {
            "unix" | "tcp" => {
                let here = if scheme == "unix" { at("server") } else { any_port.clone() };
                let here: Endpoint = here.parse().unwrap();
                let here = if is_session { here.resumable() } else { here };
                listen(&registry, &here, &options, session_options(heartbeat)).await.unwrap()
            }
            _ => {
                let config = server(matches!(scheme, "wss" | "https"), heartbeat);
                let (served, plain, resumable) = HttpServer::listen(config).await.unwrap();
                web = Some(served);
                let line = LineOptions::of(&options);
                match is_session {
                    true => Box::new(Sessions::new(
                        Box::new(resumable),
                        session_options(heartbeat),
                        line,
                    )),
                    false => Box::new(plain),
                }
            }
        };
        let back = match scheme {
            "unix" => at("server"),
            _ => format!("tcp:127.0.0.1:{}", port(acceptor.endpoint())),
        };
        let front = if scheme == "unix" { at("relay") } else { any_port };
        let (front, relay, connections) = match is_narrow {
            true => run_narrow_relay(port(acceptor.endpoint())),
            false => run_relay(front, back, rate),
        };
        let client = match scheme {
            "unix" | "tcp" => front.to_string(),
            "ws" | "wss" => format!("{scheme}://127.0.0.1:{}/ws", port(&front)),
            _ => format!("{scheme}://127.0.0.1:{}/sse", port(&front)),
        };
        let client: Endpoint = client.parse().unwrap();
        let client = if is_session { client.resumable() } else { client };
        let connector =
            connector(&registry, &client, &options, session_options(heartbeat)).unwrap();
        let (client, server) = tokio::join!(connector.connect(), acceptor.accept());
        // A session that has lost its connection reconnects to the listener.
        tokio::spawn(async move { while acceptor.accept().await.is_ok() {} });
        let (client, server) = (client.unwrap(), server.unwrap());
        Self { client, server, relay, connections, _web: web, _directory: directory }
    }
}

fn port(endpoint: &Endpoint) -> u16 {
    let text = endpoint.to_string();
    let (_, port) = text.trim_end_matches('/').rsplit_once(':').unwrap();
    port.parse().unwrap()
}

/// Runs a relay on its own thread, so that busy tasks of the lines do not slow it down. Returns its endpoint, a
/// sender that stops it, and a thread that returns the number of connections.
fn run_relay(
    front: String,
    back: String,
    rate: Option<usize>,
) -> (Endpoint, oneshot::Sender<()>, std::thread::JoinHandle<u64>) {
    let (stop, stopped) = oneshot::channel();
    let (listens, at) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            let (front, back) = (front.parse().unwrap(), back.parse().unwrap());
            let faults = Faults { throttle: rate.map(ByteSize::new), ..Faults::default() };
            let registry = Registry::new();
            let chaos = Chaos::listen(&registry, &front, &back, &options(), faults).await.unwrap();
            listens.send(chaos.endpoint().clone()).unwrap();
            let stop = async {
                let _ = stopped.await;
            };
            chaos.run(stop).await.connections
        })
    });
    (at.recv().unwrap(), stop, thread)
}

/// Runs a TCP relay to this port with small receive buffers, which are shrunk after connecting and read in
/// small pieces. The kernel of the other end then finds a window that is too small for a segment, and sends
/// only with its window probes.
fn run_narrow_relay(back: u16) -> (Endpoint, oneshot::Sender<()>, std::thread::JoinHandle<u64>) {
    let (stop, stopped) = oneshot::channel();
    let (listens, at) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            listens.send(format!("tcp:127.0.0.1:{port}").parse().unwrap()).unwrap();
            let (mut connections, mut directions) = (0, JoinSet::new());
            let accepting = async {
                loop {
                    let (near, _) = listener.accept().await.unwrap();
                    let far = TcpStream::connect(("127.0.0.1", back)).await.unwrap();
                    connections += 1;
                    for stream in [&near, &far] {
                        set_socket_recv_buffer_size(stream, NARROW).unwrap();
                    }
                    let ((near_in, near_out), (far_in, far_out)) =
                        (near.into_split(), far.into_split());
                    directions.spawn(trickle(near_in, far_out));
                    directions.spawn(trickle(far_in, near_out));
                }
            };
            tokio::select! {
                () = accepting => {}
                _ = stopped => {}
            }
            connections
        })
    });
    (at.recv().unwrap(), stop, thread)
}

/// The receive buffer of a narrow relay, which reads [`BIT`] bytes every [`PAUSE`]: about 100 KB per
/// second.
const NARROW: usize = 32 * 1024;
const BIT: usize = 8 * 1024;
const PAUSE: Duration = Duration::from_millis(80);

async fn trickle(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut bytes = vec![0; BIT];
    let mut pauses = tokio::time::interval(PAUSE);
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if to.write_all(bytes.get(..read).unwrap()).await.is_err() {
            return;
        }
        pauses.tick().await;
    }
    let _ = to.shutdown().await;
}

async fn message(receiver: &mut impl Receiver, kind: &str) -> bytes::Bytes {
    match receiver.recv().await {
        Incoming::Message(message) => message,
        other => panic!("{kind}: {other:?}"),
    }
}

/// Sends a long message in one direction and an answer in the other.
async fn exchange(kind: &str, length: usize, from: BoxChannel, to: BoxChannel) {
    let ((mut sender, mut answers), (mut thanks, mut receiver)) = (from.split(), to.split());
    let sending = async {
        let send = async {
            let sent = sender.send(vec![b'x'; length]).await;
            sent.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        };
        let (answer, ()) = tokio::join!(message(&mut answers, kind), send);
        assert_eq!(answer, "thanks", "{kind}");
    };
    let receiving = async {
        let long = message(&mut receiver, kind).await;
        assert!(long.len() == length && long.iter().all(|byte| *byte == b'x'), "{kind}");
        let (sent, _) = tokio::join!(thanks.send("thanks"), receiver.recv());
        sent.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
    };
    tokio::select! {
        () = sending => {}
        () = async { receiving.await; std::future::pending().await } => {}
    }
}

/// Waits for all lines. Each one prints its own failure.
async fn assert_none_failed(mut lines: JoinSet<()>) {
    let mut failed = 0;
    while let Some(line) = lines.join_next().await {
        failed += usize::from(line.is_err());
    }
    assert_eq!(failed, 0, "lines failed");
}

/// Sends a message over a new line, and returns how many connections it took.
async fn exchange_once(kind: &str, is_up: bool, length: usize, slow: Slow) -> u64 {
    let line = Line::new(kind, slow).await;
    let (from, to) = match is_up {
        true => (line.client, line.server),
        false => (line.server, line.client),
    };
    exchange(kind, length, from, to).await;
    let _ = line.relay.send(());
    tokio::task::spawn_blocking(|| line.connections.join()).await.unwrap().unwrap()
}

/// Sends a message of this length over a line of each of these kinds, in both directions.
async fn exchange_over_all(
    kinds: impl Iterator<Item = (&'static str, u64)>,
    length: usize,
    slow: Slow,
) {
    let mut lines = JoinSet::new();
    for (kind, connections) in kinds {
        for is_up in [true, false] {
            lines.spawn(async move {
                let name = format!("{kind}, {}", if is_up { "up" } else { "down" });
                let used = tokio::time::timeout(LIMIT, exchange_once(kind, is_up, length, slow));
                let used = used.await.unwrap_or_else(|_| panic!("{name}: timed out"));
                assert!(used <= connections, "{name}: reconnected");
            });
        }
    }
    assert_none_failed(lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_message_over_a_slow_line_arrives_without_a_reconnect() {
    let slow = Slow { rate: Some(RATE), heartbeat: HEARTBEAT, is_narrow: false };
    exchange_over_all(KINDS.into_iter(), LONG, slow).await;
}

/// The reader is like the browser of a phone, or a program that sets SO_RCVBUF.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_message_to_a_slow_reader_with_a_small_receive_buffer_arrives() {
    let slow = Slow { rate: None, heartbeat: HEARTBEAT, is_narrow: true };
    let kinds = KINDS.into_iter().filter(|(kind, _)| !kind.ends_with("unix"));
    exchange_over_all(kinds, LONG / 2, slow).await;
}

/// Reads a line slowly, answers, and then slowly writes a line of the same length.
const SLOW_PROGRAM: &str = r#"
import os, sys, time
length, step, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
read = 0
while read <= length:
    more = os.read(0, step)
    if not more:
        sys.exit(f"the input ended after {read} bytes")
    read += len(more)
    time.sleep(pause)
os.write(1, b"thanks\n")
written = 0
while written < length:
    written += os.write(1, b"x" * min(step, length - written))
    time.sleep(pause)
os.write(1, b"\n")
os.read(0, 1)
"#;

#[tokio::test]
async fn slow_program_receives_and_sends_a_long_message() {
    // The program moves 16 KiB at a time, 12 times per second.
    let (length, step, pause) = (LONG.to_string(), "16384", "0.08");
    let program = Endpoint::exec("python3", ["-c", SLOW_PROGRAM, &length, step, pause]);
    let channel = Registry::new().connect(&program, &options()).await.unwrap();
    let (mut sender, mut receiver) = channel.split();
    let through = async {
        let send = async { sender.send(vec![b'x'; LONG]).await.unwrap() };
        let (answer, ()) = tokio::join!(message(&mut receiver, "exec"), send);
        assert_eq!(answer, "thanks");
        let long = message(&mut receiver, "exec").await;
        assert!(long.len() == LONG && long.iter().all(|byte| *byte == b'x'));
    };
    tokio::time::timeout(LIMIT, through).await.unwrap();
}

/// Sends until the line ends. Returns why it ended.
async fn flood(channel: BoxChannel) -> CloseReason {
    let (mut sender, mut receiver) = channel.split();
    let send = async {
        loop {
            if let Err(error) = sender.send(vec![b'x'; 256 * 1024]).await {
                break error.close_reason().cloned().unwrap();
            }
        }
    };
    let receive = async {
        match receiver.recv().await {
            Incoming::End(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    // The receiver must be polled as well, because it answers pings.
    tokio::select! { reason = send => reason, reason = receive => reason }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn line_whose_reader_reads_nothing_is_stalled() {
    // A peer that reads nothing does not answer pings either, and must not be ended by the heartbeat first.
    let slow = Slow { rate: None, heartbeat: HeartbeatConfig::default(), is_narrow: false };
    let mut lines = JoinSet::new();
    for (kind, _) in KINDS {
        if kind.starts_with("resume+") {
            // A session keeps unacknowledged messages, and its sender waits.
            continue;
        }
        for is_up in [true, false] {
            lines.spawn(async move {
                let name = format!("{kind}, {}", if is_up { "up" } else { "down" });
                let flooding = async {
                    let line = Line::new(kind, slow).await;
                    let (from, _to) = match is_up {
                        true => (line.client, line.server),
                        false => (line.server, line.client),
                    };
                    flood(from).await
                };
                let reason = tokio::time::timeout(LIMIT, flooding).await;
                let reason = reason.unwrap_or_else(|_| panic!("{name} did not end"));
                assert!(matches!(reason, CloseReason::Stalled), "{name}: {reason:?}");
            });
        }
    }
    lines.spawn(async {
        // The stall timeout applies from the first read on.
        let program = Endpoint::exec("sh", ["-c", "head -c 1 >/dev/null; exec sleep 1000"]);
        let channel = Registry::new().connect(&program, &options()).await.unwrap();
        let control = channel.control().clone();
        let reason = tokio::time::timeout(LIMIT, flood(channel)).await.expect("exec did not end");
        control.stop().await;
        assert!(matches!(reason, CloseReason::Stalled), "exec: {reason:?}");
    });
    assert_none_failed(lines).await;
}
