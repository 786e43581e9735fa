//! A WebSocket client receives a close frame from a server that stops while it connects to the far side.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use tieline_gateway::{Bridge, Server};
use tieline_http::{HttpServer, Place, ServerConfig, Token};
use tieline_link::{SessionOptions, connector};
use tieline_transport::{Options, Registry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A limit that only fails a test that hangs.
const LIMIT: Duration = Duration::from_secs(60);

const TOKEN: &str = "the-token-of-these-tests";

/// Opens a WebSocket.
async fn web_socket(authority: &str) -> TcpStream {
    let mut stream = TcpStream::connect(authority).await.unwrap();
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Stops a server while it waits for its far side to answer. Returns the close code that its client receives.
async fn close_code(far: &str) -> u16 {
    // This listener accepts connections and never sends anything.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = far.replace('@', &silent.local_addr().unwrap().to_string());
    let mut registry = Registry::new();
    tieline_http::register(&mut registry, Default::default());
    let (options, session) = (Options::default(), SessionOptions::default());
    let target = connector(&registry, &far.parse().unwrap(), &options, session).unwrap();

    let place = Place::Tcp { host: "127.0.0.1".into(), port: 0 };
    let config = ServerConfig::new(place, Token::new(TOKEN).unwrap());
    let (web, plain, _resumable) = HttpServer::listen(config).await.unwrap();
    let mut server = Server::new(8, Bridge::default());
    server.add(Box::new(plain), target);
    let (stop, stopped) = oneshot::channel::<()>();
    let report = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));

    let endpoint = web.endpoint().to_string();
    let mut client = web_socket(endpoint.strip_prefix("http://").unwrap()).await;
    let (mut connection, _) = silent.accept().await.unwrap();
    connection.read_u8().await.expect("the first byte of the handshake");
    stop.send(()).unwrap();
    let mut frame = [0; 4];
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[0], 0x88, "a close frame: {frame:?}");
    // The answer to a close frame is the same frame, masked.
    client.write_all(&[0x88, 0x82, 0, 0, 0, 0, frame[2], frame[3]]).await.unwrap();
    let report = report.await.unwrap();
    assert_eq!((report.served, report.refused), (0, 1), "{report:?}");
    // The connection to the far side is closed.
    connection.read_to_end(&mut Vec::new()).await.unwrap();
    u16::from_be_bytes([frame[2], frame[3]])
}

#[tokio::test]
async fn client_waiting_for_a_silent_far_side_gets_1001_when_the_server_stops() {
    for far in ["ws://@/ws", "http://@/sse", "resume+tcp:@"] {
        let code = tokio::time::timeout(LIMIT, close_code(far)).await;
        assert_eq!(code, Ok(1001), "{far}");
    }
}
