//! Long messages over slow lines, on real sockets and pipes of every kind: a line whose bytes move is not dead, and a
//! line whose reader takes nothing is stalled. On Linux, where the kernel says how much has left a buffer.
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

/// What a write may be without progress.
const STALL: Duration = Duration::from_secs(2);
/// A line on which nothing comes is down after two and a half seconds.
const HEARTBEAT: HeartbeatConfig = HeartbeatConfig {
    idle: Duration::from_millis(500),
    timeout: Duration::from_secs(1),
    misses: 2,
    passes: 2,
};
/// Bytes a second: the buffers of a TCP connection, 64 KiB at the reader's side, move six times a second.
const RATE: usize = 400_000;
/// Ten seconds at that rate: five times the limits.
const LONG: usize = 4_000_000;
/// It only fails a test that hangs.
const LIMIT: Duration = Duration::from_secs(300);

const TOKEN: &str = "the-token-of-these-tests";

/// Every kind of line, and over how many connections it goes where none is lost.
const KINDS: [(&str, u64); 10] = [
    ("unix", 1),
    ("tcp", 1),
    ("ws", 1),
    ("wss", 1),
    // The events, and the POSTs.
    ("http", 2),
    ("https", 2),
    ("resume+unix", 1),
    ("resume+tcp", 1),
    ("resume+ws", 1),
    ("resume+http", 2),
];

/// How a line is watched, and at what rate its bytes pass.
#[derive(Clone, Copy)]
struct Slow {
    rate: Option<usize>,
    heartbeat: HeartbeatConfig,
    /// The relay's TCP sockets have small receive buffers, and it reads them bit by bit.
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
    SessionOptions { heartbeat, ..SessionOptions::default() }
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
    // With any port, as the clients see that of the relay.
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
    let tls = ClientTls { extra_roots: Some(certificate("root.pem")), identity: None };
    let token = Some(Token::new(TOKEN).unwrap());
    let heartbeat = Some(heartbeat);
    let config = ClientConfig { token, tls, heartbeat, ..ClientConfig::default() };
    tieline_http::register(&mut registry, config);
    registry
}

/// The two ends of a line through a relay, and what they need.
struct Line {
    client: BoxChannel,
    server: BoxChannel,
    relay: oneshot::Sender<()>,
    connections: std::thread::JoinHandle<u64>,
    _web: Option<HttpServer>,
    _directory: tempfile::TempDir,
}

impl Line {
    /// A line of this kind, through a relay that is as slow.
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
        // A session that has lost its connection needs the listener to come back.
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

/// A relay on a thread of its own, so that it does not stand still where the lines' tasks have much to do. Where
/// it listens, what stops it, and how many connections it has had.
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

/// The same to this port, for TCP: each socket's receive buffer shrinks once it is connected, and is read bit by bit,
/// so that the kernel of the other end finds a window into which nothing fits, and sends by its probes of that.
fn run_narrow_relay(back: u16) -> (Endpoint, oneshot::Sender<()>, std::thread::JoinHandle<u64>) {
    let (stop, stopped) = oneshot::channel();
    let (listens, at) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            listens.send(format!("tcp:127.0.0.1:{port}").parse().unwrap()).unwrap();
            let (mut connections, mut ways) = (0, JoinSet::new());
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
                    ways.spawn(trickles(near_in, far_out));
                    ways.spawn(trickles(far_in, near_out));
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

/// The receive buffer of a narrow relay, and how much of it is read how often: 100 KB a second.
const NARROW: usize = 32 * 1024;
const BIT: usize = 8 * 1024;
const PAUSE: Duration = Duration::from_millis(80);

async fn trickles(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
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

/// A long message goes one way, and an answer comes back.
async fn goes_through(kind: &str, length: usize, from: BoxChannel, to: BoxChannel) {
    let ((mut sender, mut answers), (mut thanks, mut receiver)) = (from.split(), to.split());
    let asks = async {
        let send = async {
            let sent = sender.send(vec![b'x'; length]).await;
            sent.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        };
        let (answer, ()) = tokio::join!(message(&mut answers, kind), send);
        assert_eq!(answer, "thanks", "{kind}");
    };
    let takes = async {
        let long = message(&mut receiver, kind).await;
        assert!(long.len() == length && long.iter().all(|byte| *byte == b'x'), "{kind}");
        let (sent, _) = tokio::join!(thanks.send("thanks"), receiver.recv());
        sent.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
    };
    tokio::select! {
        () = asks => {}
        () = async { takes.await; std::future::pending().await } => {}
    }
}

/// Each line says for itself what is wrong with it.
async fn all_good(mut lines: JoinSet<()>) {
    let mut failed = 0;
    while let Some(line) = lines.join_next().await {
        failed += usize::from(line.is_err());
    }
    assert_eq!(failed, 0, "lines have failed");
}

/// A message of this length goes over a line of each of these kinds, both ways.
async fn all_go_through(
    kinds: impl Iterator<Item = (&'static str, u64)>,
    length: usize,
    slow: Slow,
) {
    let mut lines = JoinSet::new();
    for (kind, connections) in kinds {
        for is_up in [true, false] {
            lines.spawn(async move {
                let line = Line::new(kind, slow).await;
                let (from, to) = match is_up {
                    true => (line.client, line.server),
                    false => (line.server, line.client),
                };
                let name = format!("{kind}, {}", if is_up { "up" } else { "down" });
                let through = goes_through(&name, length, from, to);
                tokio::time::timeout(LIMIT, through).await.unwrap_or_else(|_| panic!("{name}"));
                let _ = line.relay.send(());
                let had = tokio::task::spawn_blocking(|| line.connections.join()).await.unwrap();
                assert!(had.unwrap() <= connections, "{name}");
            });
        }
    }
    all_good(lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_message_over_a_slow_line_of_any_kind_arrives_whole_and_over_one_connection() {
    let slow = Slow { rate: Some(RATE), heartbeat: HEARTBEAT, is_narrow: false };
    all_go_through(KINDS.into_iter(), LONG, slow).await;
}

/// As a phone's browser, or a program that has set SO_RCVBUF.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_message_to_a_slow_reader_with_a_small_receive_buffer_arrives_whole() {
    let slow = Slow { rate: None, heartbeat: HEARTBEAT, is_narrow: true };
    let kinds = KINDS.into_iter().filter(|(kind, _)| !kind.ends_with("unix"));
    all_go_through(kinds, LONG / 4, slow).await;
}

/// Reads a line slowly, says so, and writes as long a one slowly.
const SLOW_PROGRAM: &str = r#"
import os, sys, time
length, step, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
read = 0
while read <= length:
    more = os.read(0, step)
    if not more:
        sys.exit(f"the input ended behind {read} bytes")
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
async fn a_program_that_reads_and_writes_slowly_gets_and_says_a_long_message_whole() {
    // 16 KiB at a time, 25 times a second.
    let (length, step, pause) = (LONG.to_string(), "16384", "0.04");
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

/// Sends until the line ends, and says why it has.
async fn floods(channel: BoxChannel) -> CloseReason {
    let (mut sender, mut receiver) = channel.split();
    let send = async {
        loop {
            if let Err(error) = sender.send(vec![b'x'; 256 * 1024]).await {
                break error.close_reason().cloned().unwrap();
            }
        }
    };
    let hear = async {
        match receiver.recv().await {
            Incoming::End(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    // The receiver is asked, too, as it answers pings.
    tokio::select! { reason = send => reason, reason = hear => reason }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_of_any_kind_whose_reader_takes_nothing_is_stalled() {
    // Who takes nothing answers no ping either, and that is not what ends the line here.
    let slow = Slow { rate: None, heartbeat: HeartbeatConfig::default(), is_narrow: false };
    let mut lines = JoinSet::new();
    for (kind, _) in KINDS {
        if kind.starts_with("resume+") {
            // A session keeps what is not acknowledged, and its sender waits.
            continue;
        }
        for is_up in [true, false] {
            lines.spawn(async move {
                let line = Line::new(kind, slow).await;
                let (from, to) = match is_up {
                    true => (line.client, line.server),
                    false => (line.server, line.client),
                };
                let name = format!("{kind}, {}", if is_up { "up" } else { "down" });
                let reason = tokio::time::timeout(LIMIT, floods(from)).await;
                let reason = reason.unwrap_or_else(|_| panic!("{name} goes on"));
                assert!(matches!(reason, CloseReason::Stalled), "{name}: {reason:?}");
                drop(to);
            });
        }
    }
    lines.spawn(async {
        // The limit counts from the first read.
        let program = Endpoint::exec("sh", ["-c", "head -c 1 >/dev/null; exec sleep 1000"]);
        let channel = Registry::new().connect(&program, &options()).await.unwrap();
        let control = channel.control().clone();
        let reason = tokio::time::timeout(LIMIT, floods(channel)).await.expect("exec goes on");
        control.stop().await;
        assert!(matches!(reason, CloseReason::Stalled), "exec: {reason:?}");
    });
    all_good(lines).await;
}
