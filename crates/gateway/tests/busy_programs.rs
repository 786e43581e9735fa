//! A program or client that reads nothing for longer than the timeout of a silent peer still receives
//! everything, over every kind of web line. The test uses real sockets and a clock that runs fast. It
//! runs only on Linux, where the kernel reports the bytes in its buffers.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::future::pending;
use std::time::Duration;

use support::message;
use tieline_gateway::{Bridge, bridge};
use tieline_http::{ClientConfig, HttpServer, Place, ServerConfig, Token, WebSocketConfig};
use tieline_link::{LineOptions, SessionOptions, Sessions, connector};
use tieline_testkit::clock::FastClock;
use tieline_transport::{
    BoxChannel, Channel, ChannelConfig, DynAcceptor, Endpoint, Incoming, Options, ReceiverExt,
    Registry, SenderExt,
};
use tokio::task::JoinSet;
use tokio::time::sleep;

const KIB: usize = 1 << 10;
/// The number of messages and their length. The first amount exceeds all buffers, so that writes block.
/// With the second one, the gateway stops reading, and the rest fits into the buffers of the connection.
const AMOUNTS: [(usize, usize); 2] = [(48, 512 * KIB), (6, 100 * KIB)];
/// How long the reader is busy: twice the timeout of a silent peer, and less than the stall timeout of a
/// program.
const BUSY: Duration = Duration::from_secs(50);

/// Returns options with the stall timeout that `connect` and `serve` use for a program, here also for
/// the client.
fn options() -> Options {
    let stall_timeout = ChannelConfig::default().program_stall_timeout;
    let channel = ChannelConfig { stall_timeout, ..ChannelConfig::default() };
    Options { channel, ..Options::default() }
}

/// Returns two ends of an in-memory line, in place of a program's pipes.
async fn pipes(registry: &Registry, name: &str) -> (BoxChannel, BoxChannel) {
    let endpoint = Endpoint::memory(name);
    let options = options();
    let mut listener = registry.listen(&endpoint, &options).await.unwrap();
    let (near, far) = tokio::join!(registry.connect(&endpoint, &options), listener.accept());
    (near.unwrap(), far.unwrap())
}

/// Returns a client and the server's end of its line.
async fn line(registry: &Registry, kind: &str) -> (BoxChannel, BoxChannel, HttpServer) {
    let place = Place::Tcp { host: "127.0.0.1".into(), port: 0 };
    let mut config = ServerConfig::new(place, Token::new("the-token-of-these-tests").unwrap());
    let channel = options().channel;
    config.web_socket = WebSocketConfig { channel, ..WebSocketConfig::default() };
    let (web, plain, resumable) = HttpServer::listen(config).await.unwrap();
    let scheme = kind.trim_start_matches("resume+");
    let mut acceptor: Box<dyn DynAcceptor> = match scheme == kind {
        true => Box::new(plain),
        false => {
            let line = LineOptions::of(&options());
            Box::new(Sessions::new(Box::new(resumable), SessionOptions::default(), line))
        }
    };
    let path = if scheme == "ws" { "/ws" } else { "/sse" };
    let endpoint =
        web.endpoint().to_string().trim_end_matches('/').replace("http:", scheme_of(scheme));
    let endpoint: Endpoint = (endpoint + path).parse().unwrap();
    let endpoint = if scheme == kind { endpoint } else { endpoint.resumable() };
    let connector = connector(registry, &endpoint, &options(), SessionOptions::default()).unwrap();
    let (client, server) = tokio::join!(connector.connect(), acceptor.accept());
    tokio::spawn(async move { while acceptor.accept().await.is_ok() {} });
    (client.unwrap(), server.unwrap(), web)
}

fn scheme_of(scheme: &str) -> &'static str {
    if scheme == "ws" { "ws:" } else { "http:" }
}

/// Sends all messages and receives one.
async fn send_all(line: BoxChannel, (count, length): (usize, usize)) {
    let (mut sender, mut receiver) = line.split();
    let send = async {
        for _ in 0..count {
            sender.send(vec![b'x'; length]).await.unwrap();
        }
    };
    let (answer, ()) = tokio::join!(message(&mut receiver), send);
    assert_eq!(answer, "done");
}

/// Receives one message, pauses, receives all others, and sends one.
async fn receive_slowly(line: BoxChannel, (count, length): (usize, usize)) {
    let (mut sender, mut receiver) = line.split();
    assert_eq!(message(&mut receiver).await.len(), length);
    sleep(BUSY).await;
    for _ in 1..count {
        assert_eq!(message(&mut receiver).await.len(), length);
    }
    sender.send("done").await.unwrap();
    let _ = receiver.recv().await;
}

/// Receives the end of input, and then sends all messages. Never returns, because that would end the line.
async fn answer_after_the_end(line: BoxChannel, (count, length): (usize, usize)) {
    let (mut sender, mut receiver) = line.split();
    let incoming = receiver.recv().await;
    assert!(matches!(incoming, Incoming::End(_)), "{incoming:?}");
    for _ in 0..count {
        sender.send(vec![b'x'; length]).await.unwrap();
    }
    pending().await
}

/// Ends the input, receives one message, pauses, and receives all others.
async fn end_input_and_receive_slowly(line: BoxChannel, (count, length): (usize, usize)) {
    let (mut sender, mut receiver) = line.split();
    sender.close().await.unwrap();
    assert_eq!(message(&mut receiver).await.len(), length);
    sleep(BUSY).await;
    for _ in 1..count {
        assert_eq!(message(&mut receiver).await.len(), length);
    }
}

/// The side that reads nothing for a while.
#[derive(Clone, Copy)]
enum Busy {
    Program,
    Client,
    /// A client that has ended its input.
    ClientAfterInput,
}

/// Sends messages between a user and a program over a line of this kind while the reader is busy.
async fn all_arrives(kind: &str, busy: Busy, amount: (usize, usize)) {
    let mut registry = Registry::new();
    let token = Some(Token::new("the-token-of-these-tests").unwrap());
    tieline_http::register(&mut registry, ClientConfig { token, ..ClientConfig::default() });
    let (client, server, _web) = line(&registry, kind).await;
    let (user, near) = pipes(&registry, "user").await;
    let (far, program) = pipes(&registry, "program").await;
    // One bridge stands for `tieline connect`, and the other for `tieline serve`.
    let connect = tokio::spawn(bridge(near, client, Bridge::default(), pending()));
    let serve = tokio::spawn(bridge(server, far, Bridge::default(), pending()));
    let arrives = async {
        let (sender, reader) = match busy {
            Busy::Program => (user, program),
            Busy::Client => (program, user),
            Busy::ClientAfterInput => {
                tokio::select! {
                    () = end_input_and_receive_slowly(user, amount) => {}
                    () = answer_after_the_end(program, amount) => {}
                }
                return;
            }
        };
        tokio::select! {
            () = send_all(sender, amount) => {}
            () = async { receive_slowly(reader, amount).await; pending().await } => {}
        }
    };
    tokio::select! {
        biased;
        () = arrives => {}
        report = connect => panic!("{kind}: connect ended: {:?}", report.unwrap()),
        report = serve => panic!("{kind}: serve ended: {:?}", report.unwrap()),
    }
}

/// All lines run at once, because each takes seconds.
#[tokio::test]
async fn everything_arrives_at_a_busy_program_or_client() {
    let _clock = FastClock::start();
    let mut lines = JoinSet::new();
    for kind in ["ws", "http", "resume+ws", "resume+http"] {
        for busy in [Busy::Program, Busy::Client, Busy::ClientAfterInput] {
            for amount in AMOUNTS {
                lines.spawn(all_arrives(kind, busy, amount));
            }
        }
    }
    while let Some(line) = lines.join_next().await {
        line.unwrap();
    }
}
