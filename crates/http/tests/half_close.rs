//! Tests of half-close over WebSockets: a client ends its input and still receives messages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::{
    BEARER, Served, accept_key, close_code, closed, config, end, frame, head, message, serve,
    upgrade,
};
use tieline_http::{ClientConfig, WebChannel};
use tieline_proto::HeartbeatConfig;
use tieline_testkit::clock::FastClock;
use tieline_transport::{Acceptor, BoxChannel, Channel, CloseReason, SenderExt, TransportError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const OFFER: &str = "Sec-WebSocket-Extensions: tieline-half-close\r\n";
const END: u8 = 0x8b;

/// Returns a raw socket after an upgrade with the extension, and the server's end of it.
async fn raw(served: &mut Served) -> (TcpStream, WebChannel) {
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let upgrade = upgrade(served.port, &format!("{BEARER}{OFFER}"));
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.contains("sec-websocket-extensions: tieline-half-close\r\n"), "{head}");
    (stream, served.plain.accept().await.unwrap().into_web_socket().unwrap())
}

#[tokio::test]
async fn messages_arrive_after_end_of_input() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    assert!(client.control().capabilities().half_close);
    assert!(!server.control().capabilities().half_close);
    let (mut to_server, mut from_server) = client.split();
    let control = server.control().clone();
    let (mut to_client, mut from_client) = server.split();
    to_server.send("question").await.unwrap();
    to_server.close().await.unwrap();
    assert!(matches!(closed(&mut to_server).await, CloseReason::ByUs));
    assert_eq!(message(&mut from_client).await, "question");
    for _ in 0..2 {
        assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    }
    assert!(control.close_reason().is_none(), "only one direction has ended");
    for number in 0..1000 {
        to_client.feed(format!("{number}")).await.unwrap();
    }
    to_client.close().await.unwrap();
    let reading = async {
        for number in 0..1000 {
            assert_eq!(message(&mut from_server).await, format!("{number}"));
        }
        end(&mut from_server).await
    };
    // After its close frame, the server waits for that of the client.
    let (reason, again) = tokio::join!(reading, end(&mut from_client));
    assert!(matches!((&reason, &again), (CloseReason::ByUs, CloseReason::ByPeer)), "{reason}");
    assert!(matches!(control.close_reason(), Some(CloseReason::ByUs)));
}

/// The message is larger than all buffers between the two sides.
#[tokio::test]
async fn end_of_input_follows_queued_messages() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    let (mut to_server, _from_server) = client.split();
    let (_to_client, mut from_client) = server.split();
    let large = Bytes::from(vec![b'x'; 16 << 20]);
    let sending = async {
        to_server.feed(large.clone()).await.unwrap();
        to_server.close().await.unwrap();
    };
    let receiving = async {
        assert!(message(&mut from_client).await == large);
        end(&mut from_client).await
    };
    let ((), reason) = tokio::join!(sending, receiving);
    assert!(matches!(reason, CloseReason::ByPeer));
}

#[tokio::test]
async fn pings_are_answered_after_end_of_input() {
    let mut served = serve(config()).await;
    let (mut stream, channel) = raw(&mut served).await;
    let (mut to_client, mut from_client) = channel.split();
    stream.write_all(&[frame(0x81, b"question"), frame(END, b"")].concat()).await.unwrap();
    assert_eq!(message(&mut from_client).await, "question");
    assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    // Meanwhile, the channel is not polled.
    for payload in [&b"one"[..], b"two"] {
        stream.write_all(&frame(0x89, payload)).await.unwrap();
        let mut pong = [0; 5];
        stream.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, *[b"\x8a\x03", payload].concat());
    }
    to_client.send("answer").await.unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"\x81\x06answer");
}

/// The side that pings receives only pongs.
#[tokio::test]
async fn both_sides_answer_pings_after_end_of_input() {
    let often = HeartbeatConfig {
        idle: Duration::from_millis(1),
        misses: 60_000,
        ..HeartbeatConfig::default()
    };
    for (client_pings, server_pings) in [(Some(often), None), (None, Some(often))] {
        let mut config = config();
        config.web_socket.heartbeat = server_pings;
        let mut served = serve(config).await;
        let client = ClientConfig { heartbeat: client_pings, ..support::client() };
        let (registry, url, options) =
            (support::registry_with(client), served.url(), Default::default());
        let (client, server) =
            tokio::join!(registry.connect(&url, &options), served.plain.accept());
        let (client, server) = (client.unwrap(), server.unwrap().into_web_socket().unwrap());
        let pinging = match client_pings {
            Some(_) => client.control().clone(),
            None => server.control().clone(),
        };
        let (mut to_server, mut from_server) = client.split();
        let (mut to_client, mut from_client) = server.split();
        to_server.close().await.unwrap();
        assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
        let before = pinging.info().bytes_in;
        let answering = async {
            while pinging.info().bytes_in < before + 200 {
                assert!(pinging.close_reason().is_none());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            to_client.send("answer").await.unwrap();
        };
        let both = async { tokio::join!(answering, message(&mut from_server)) };
        let ((), answer) = tokio::time::timeout(support::LIMIT, both).await.expect("no pongs");
        assert_eq!(answer, "answer");
    }
}

#[tokio::test]
async fn lost_client_is_detected_after_end_of_input() {
    let mut served = serve(config()).await;
    for closes in [true, false] {
        let (mut stream, channel) = raw(&mut served).await;
        let (mut to_client, mut from_client) = channel.split();
        stream.write_all(&frame(END, b"")).await.unwrap();
        assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
        if closes {
            stream.write_all(&frame(0x88, &1000u16.to_be_bytes())).await.unwrap();
            assert_eq!(close_code(&mut stream).await, Some(1000));
        } else {
            drop(stream);
        }
        tokio::time::timeout(support::LIMIT, to_client.gone()).await.expect("not noticed");
        closed(&mut to_client).await;
    }
}

/// The client does not answer pings.
#[tokio::test]
async fn silent_client_times_out_after_end_of_input() {
    let mut served = serve(config()).await;
    let (mut stream, channel) = raw(&mut served).await;
    let control = channel.control().clone();
    let (mut to_client, mut from_client) = channel.split();
    stream.write_all(&frame(END, b"")).await.unwrap();
    assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    let _clock = FastClock::start();
    to_client.gone().await;
    assert!(matches!(control.close_reason(), Some(CloseReason::TimedOut)));
    assert!(matches!(closed(&mut to_client).await, CloseReason::TimedOut));
}

#[tokio::test]
async fn message_after_end_of_input_is_a_protocol_error() {
    let mut served = serve(config()).await;
    for second in [frame(0x81, b"more"), frame(END, b""), frame(0x80, b"")] {
        let (mut stream, channel) = raw(&mut served).await;
        let control = channel.control().clone();
        let (mut to_client, mut from_client) = channel.split();
        stream.write_all(&[frame(END, b""), second].concat()).await.unwrap();
        assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
        let ((), code) = tokio::join!(to_client.gone(), close_code(&mut stream));
        assert_eq!(code, Some(1002));
        assert!(matches!(control.close_reason(), Some(CloseReason::Protocol(_))));
    }
}

#[tokio::test]
async fn end_of_input_without_negotiation_is_a_protocol_error() {
    let mut served = serve(config()).await;
    let (mut stream, channel) = served.raw().await;
    let (_sender, mut receiver) = channel.split();
    stream.write_all(&frame(END, b"")).await.unwrap();
    let (reason, code) = tokio::join!(end(&mut receiver), close_code(&mut stream));
    assert!(matches!(reason, CloseReason::Protocol(_)), "{reason}");
    assert_eq!(code, Some(1002));
    // A server must not send an end of input.
    let (client, mut server) = pair_by_hand(Some(OFFER)).await;
    let (_sender, mut receiver) = client.unwrap().split();
    server.write_all(&[END, 0]).await.unwrap();
    assert!(matches!(end(&mut receiver).await, CloseReason::Protocol(_)));
}

/// A session signals the end of input itself.
#[tokio::test]
async fn extension_is_refused_with_parameters_and_for_sessions() {
    let served = serve(config()).await;
    for (more, is_granted) in [
        (OFFER.to_owned(), true),
        ("Sec-WebSocket-Extensions: permessage-deflate, Tieline-Half-Close\r\n".into(), true),
        (format!("Sec-WebSocket-Extensions: permessage-deflate; x=1\r\n{OFFER}"), true),
        (String::new(), false),
        ("Sec-WebSocket-Extensions: permessage-deflate\r\n".into(), false),
        ("Sec-WebSocket-Extensions: tieline-half-close; x=1\r\n".into(), false),
        (format!("Sec-WebSocket-Protocol: tieline.1\r\n{OFFER}"), false),
    ] {
        let head = served.ask(upgrade(served.port, &format!("{BEARER}{more}"))).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(head.contains("sec-websocket-extensions"), is_granted, "{more}{head}");
    }
}

/// Connects a client to a raw server whose response has the additional header lines `more`.
async fn pair_by_hand(more: Option<&str>) -> (Result<BoxChannel, TransportError>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let (registry, url, options) = (support::registry(), url.parse().unwrap(), Default::default());
    let answering = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = head(&mut stream).await;
        let line = |name: &str| {
            let line = request.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).unwrap_or_default().to_owned()
        };
        assert_eq!(line("sec-websocket-extensions:"), "tieline-half-close");
        let answer = accept_key(&line("sec-websocket-key:"));
        let more = more.unwrap_or_default();
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {answer}\r\n{more}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    tokio::join!(registry.connect(&url, &options), answering)
}

/// Only the close frame ends the line, as with other servers.
#[tokio::test]
async fn client_closes_without_the_extension() {
    let (client, mut server) = pair_by_hand(None).await;
    let client = client.unwrap();
    assert!(!client.control().capabilities().half_close);
    let (mut sender, mut receiver) = client.split();
    sender.close().await.unwrap();
    let mut close = [0; 8];
    server.read_exact(&mut close).await.unwrap();
    assert_eq!(close[..2], [0x88, 0x82]);
    server.write_all(b"\x81\x04last\x88\x02\x03\xe8").await.unwrap();
    assert_eq!(message(&mut receiver).await, "last");
    assert!(matches!(end(&mut receiver).await, CloseReason::ByUs));
}

#[tokio::test]
async fn extension_that_was_not_offered_is_refused() {
    for more in [
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        "Sec-WebSocket-Extensions: tieline-half-close; x=1\r\n",
        "Sec-WebSocket-Extensions: tieline-half-close, permessage-deflate\r\n",
    ] {
        let (client, _server) = pair_by_hand(Some(more)).await;
        let Err(error) = client else { panic!("{more} was accepted") };
        assert!(error.to_string().contains("extension"), "{error}");
    }
}

#[tokio::test]
async fn client_dropped_after_end_of_input_closes_normally() {
    let (client, mut server) = pair_by_hand(Some(OFFER)).await;
    let (mut sender, receiver) = client.unwrap().split();
    sender.send("hi").await.unwrap();
    sender.close().await.unwrap();
    drop((sender, receiver));
    let mut bytes = Vec::new();
    server.read_to_end(&mut bytes).await.unwrap();
    assert_eq!((bytes[0], bytes[1]), (0x81, 0x82));
    assert_eq!((bytes[8], bytes[9]), (END, 0x80));
    let (mask, payload) = (&bytes[16..20], &bytes[20..22]);
    assert_eq!((bytes[14], bytes[15]), (0x88, 0x82));
    assert_eq!([payload[0] ^ mask[0], payload[1] ^ mask[1]], 1000u16.to_be_bytes());
}

/// An end of input could not carry the reason.
#[tokio::test]
async fn client_with_a_reason_to_report_closes_the_line() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    client.control().report_at_close(CloseReason::Overrun);
    let (mut to_server, mut from_server) = client.split();
    let (_to_client, mut from_client) = server.split();
    let (closing, reason, last) =
        tokio::join!(to_server.close(), end(&mut from_client), end(&mut from_server));
    closing.unwrap();
    assert!(matches!(&reason, CloseReason::ByPeerBecause(close) if close.code == 1013));
    assert!(matches!(last, CloseReason::ByUs), "{last}");
}

#[tokio::test]
async fn failed_program_is_reported_after_end_of_input() {
    let mut served = serve(config()).await;
    let (client, server) = served.pair().await;
    let (mut to_server, mut from_server) = client.split();
    to_server.close().await.unwrap();
    let control = server.control().clone();
    let (mut to_client, mut from_client) = server.split();
    assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    control.report_at_close(CloseReason::StdoutClosed);
    let (closing, reason, _) =
        tokio::join!(to_client.close(), end(&mut from_server), end(&mut from_client));
    closing.unwrap();
    let CloseReason::ByPeerBecause(close) = &reason else { panic!("{reason}") };
    assert_eq!(close.code, 1011);
}

#[tokio::test]
async fn server_shutdown_is_reported_after_end_of_input() {
    let mut config = config();
    config.web_socket.heartbeat = None::<HeartbeatConfig>;
    let mut served = serve(config).await;
    let (client, server) = served.pair().await;
    let (mut to_server, mut from_server) = client.split();
    to_server.close().await.unwrap();
    let (mut to_client, mut from_client) = server.split();
    assert!(matches!(end(&mut from_client).await, CloseReason::ByPeer));
    let leaving = async {
        to_client.gone().await;
        assert!(matches!(closed(&mut to_client).await, CloseReason::ByUs));
        drop((to_client, from_client));
    };
    let closing = served.web.close(Duration::from_secs(30));
    let (reason, (), ()) = tokio::join!(end(&mut from_server), closing, leaving);
    assert!(matches!(&reason, CloseReason::ByPeerBecause(close) if close.code == 1001));
}
