//! A web server on a free port, and its clients, including hostile ones.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unreachable_pub)]

pub mod cuts;
pub mod events;
pub mod http2;
#[cfg(feature = "oauth")]
pub mod issuer;
pub mod proxy;
pub mod resume;
pub mod sdk;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tieline_http::{
    ClientConfig, ClientIdentity, ClientTls, HttpServer, Place, ServerConfig, ServerTls, Token,
    WebAcceptor, WebChannel,
};
use tieline_transport::{
    Acceptor, BoxChannel, Channel, CloseReason, Endpoint, Incoming, Options, Receiver, ReceiverExt,
    Registry, SendError, Sender, SenderExt, TransportError,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub const TOKEN: &str = "the-token-of-these-tests";

/// A header line with the token.
pub const BEARER: &str = "Authorization: Bearer the-token-of-these-tests\r\n";

/// The time after which a hanging test fails. No working test takes this long on any machine.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Served {
    pub web: HttpServer,
    pub plain: WebAcceptor,
    /// The acceptor of sessions. If it is dropped, the server has no sessions.
    pub resumable: Option<WebAcceptor>,
    pub port: u16,
}

pub fn token() -> Token {
    Token::new(TOKEN).unwrap()
}

pub fn config() -> ServerConfig {
    ServerConfig::new(Place::Tcp { host: "127.0.0.1".into(), port: 0 }, token())
}

/// Returns the path of a test certificate or key.
pub fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Returns the configuration of a server with TLS.
pub fn tls(client_roots: Option<&str>) -> ServerConfig {
    let client_roots = client_roots.map(file);
    let tls =
        ServerTls { certificate: file("server.pem"), key: file("server.key.pem"), client_roots };
    ServerConfig { tls: Some(tls), ..config() }
}

/// Returns the TLS configuration of a client that trusts the server and may present a certificate.
pub fn tls_client(certificate: Option<&str>) -> ClientTls {
    let identity = certificate.map(|name| ClientIdentity {
        certificate: file(&format!("{name}.pem")),
        key: file(&format!("{name}.key.pem")),
    });
    ClientTls { extra_roots: Some(file("root.pem")), identity, ..ClientTls::default() }
}

/// Returns the configuration of a client that has the token.
pub fn client() -> ClientConfig {
    ClientConfig { token: Some(token()), ..ClientConfig::default() }
}

pub async fn serve(config: ServerConfig) -> Served {
    let (web, plain, resumable) = HttpServer::listen(config).await.unwrap();
    let text = web.endpoint().to_string();
    let port = text.rsplit_once(':').unwrap().1.parse().unwrap_or_default();
    Served { web, plain, resumable: Some(resumable), port }
}

impl Served {
    pub fn url(&self) -> Endpoint {
        format!("ws://127.0.0.1:{}/ws", self.port).parse().unwrap()
    }

    /// Connects a client and returns both ends.
    pub async fn pair(&mut self) -> (BoxChannel, WebChannel) {
        let url = self.url();
        let registry = registry();
        let options = Options::default();
        let connecting = registry.connect(&url, &options);
        let (client, server) = tokio::join!(connecting, self.plain.accept());
        (client.unwrap(), server.unwrap().into_web_socket().unwrap())
    }

    /// Returns a raw socket after a WebSocket upgrade, and the server's end of it.
    pub async fn raw(&mut self) -> (TcpStream, WebChannel) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let upgrade = upgrade(self.port, &format!("Authorization: Bearer {TOKEN}\r\n"));
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        assert_eq!(status(&mut stream).await, 101);
        (stream, self.plain.accept().await.unwrap().into_web_socket().unwrap())
    }

    /// Opens a one-time URL with an additional header line, as a browser would. Returns the cookie as a header line.
    pub async fn cookie(&self, line: &str) -> Option<String> {
        let url = self.web.one_time_url().unwrap().unwrap();
        let path = url.splitn(4, '/').nth(3).unwrap();
        let host = format!("127.0.0.1:{}", self.port);
        let answer = self.ask(format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\n{line}\r\n")).await;
        assert_eq!(status_of(&answer), 303, "{answer}");
        let cookie = answer.split("set-cookie: ").nth(1)?.split(';').next()?;
        Some(format!("Cookie: {cookie}\r\n"))
    }

    /// Sends these bytes and returns the response head, or its beginning if the connection ends early.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        // The server may respond and close before it has read everything.
        let _ = stream.write_all(request.as_ref()).await;
        head(&mut stream).await
    }
}

/// Returns a registry with the web schemes and a client that has the token.
pub fn registry() -> Registry {
    registry_with(client())
}

pub fn registry_with(config: ClientConfig) -> Registry {
    let mut registry = Registry::new();
    tieline_http::register(&mut registry, config);
    registry
}

/// Returns a WebSocket upgrade request with additional header lines.
pub fn upgrade(port: u16, more: &str) -> String {
    upgrade_of(&format!("Host: 127.0.0.1:{port}\r\n{more}"))
}

/// Returns the same request without a `Host` header.
pub fn upgrade_of(more: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// Reads up to the empty line that ends the head, or to the end of the connection.
pub async fn head(stream: &mut TcpStream) -> String {
    head_of(stream).await
}

/// As [`head`], over any byte stream.
pub async fn head_of(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let reading = tokio::time::timeout(LIMIT, head_at_any_time(stream));
    reading.await.expect("timed out waiting for a response")
}

/// As [`head`], without a time limit: the response depends on other events of the test.
pub async fn head_at_any_time(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

pub async fn status(stream: &mut TcpStream) -> u16 {
    status_of(&head(stream).await)
}

pub fn status_of(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_default()
}

/// Returns the `Sec-WebSocket-Accept` for a key (RFC 6455, section 4.2.2).
pub fn accept_key(key: &str) -> String {
    use base64::prelude::*;
    let keyed = [key, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, keyed.as_bytes());
    BASE64_STANDARD.encode(digest)
}

/// Returns a masked client frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..126), _) => frame.push(0x80 | length),
        (_, Ok(length)) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Skips frames up to the close frame and returns its code, or `None` if the stream ends first.
pub async fn close_code(stream: &mut TcpStream) -> Option<u16> {
    let reading = async {
        loop {
            let first = stream.read_u8().await.ok()?;
            let length = match stream.read_u8().await.ok()? {
                126 => u64::from(stream.read_u16().await.ok()?),
                127 => stream.read_u64().await.ok()?,
                short => u64::from(short),
            };
            let mut payload = vec![0; length.try_into().unwrap()];
            stream.read_exact(&mut payload).await.ok()?;
            if first == 0x88 {
                return Some(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code)));
            }
        }
    };
    tokio::time::timeout(LIMIT, reading).await.expect("timed out waiting for a close frame")
}

pub async fn message(receiver: &mut impl Receiver) -> Bytes {
    match tokio::time::timeout(LIMIT, receiver.recv())
        .await
        .expect("timed out waiting for a message")
    {
        Incoming::Message(message) => message,
        other => panic!("not a message: {other:?}"),
    }
}

/// Returns the reason why a sender accepts no message.
pub async fn closed(sender: &mut impl Sender) -> CloseReason {
    match sender.send("too late").await {
        Err(SendError::Closed(reason)) => *reason,
        other => panic!("{other:?}"),
    }
}

/// Skips everything until the line ends, and returns the reason.
pub async fn end(receiver: &mut impl Receiver) -> CloseReason {
    let reading = async {
        loop {
            if let Incoming::End(reason) = receiver.recv().await {
                return reason;
            }
        }
    };
    tokio::time::timeout(LIMIT, reading).await.expect("timed out waiting for the end of the line")
}

/// Echoes messages until the line ends, and returns the reason.
pub async fn echo(channel: impl Channel) -> CloseReason {
    let (mut sender, mut receiver) = channel.split();
    loop {
        match receiver.recv().await {
            Incoming::Message(message) => {
                let _ = sender.send(message).await;
            }
            Incoming::End(reason) => return reason,
            _ => {}
        }
    }
}

pub async fn refused(registry: &Registry, url: &str) -> TransportError {
    match registry.connect(&url.parse().unwrap(), &Options::default()).await {
        Ok(_) => panic!("{url} was accepted"),
        Err(error) => error,
    }
}

/// Forwards connections, and cuts all of them when notified. Returns the port to connect to.
pub async fn cutter(to: u16) -> (u16, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let cut = Arc::new(Notify::new());
    let notified = cut.clone();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let notified = notified.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = notified.notified() => {}
                }
            });
        }
    });
    (port, cut)
}

/// Returns the exit of a program with this status and this text on stderr.
pub fn exit(code: i32, stderr: &'static str) -> tieline_transport::ChildExit {
    #[cfg(unix)]
    let status = std::os::unix::process::ExitStatusExt::from_raw(code << 8);
    #[cfg(windows)]
    let status = std::os::windows::process::ExitStatusExt::from_raw(code as u32);
    tieline_transport::ChildExit {
        status,
        stderr_tail: stderr.into(),
        unterminated: false,
        truncated: None,
        unread: None,
        guardian_lost: false,
    }
}
