//! WebSocket upgrades. The request is accepted only if its line can be queued for the acceptor.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode, Version};
use tieline_proto::ByteSize;
use tieline_proto::session::OVERHEAD;
use tieline_proto::websocket::Role;
use tieline_transport::{Owner, TransportKind};
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::time::timeout;

use super::access::protocols;
use super::body::{Body, Inbound, line};
use super::count::count;
use super::route::{ConnectionContext, busy};
use super::{Server, WebLine};
use crate::handshake::{HALF_CLOSE, PLAIN, RESUMABLE, TOKEN_PREFIX, accept, has_word, is_key};
use crate::stream::Hyper;
use crate::websocket::{Content, Made, WebChannel};

/// How long writing the 101 response may take.
const SWITCHING: Duration = Duration::from_secs(10);

/// Responds to a WebSocket upgrade, plain or resumable, and queues the channel for its acceptor.
pub(super) fn web_socket(
    server: &Arc<Server>,
    context: &ConnectionContext,
    owner: Owner,
    request: Request<Inbound>,
) -> Response<Body> {
    let key = match check(&request) {
        Ok(key) => key,
        Err(response) => return *response,
    };
    let offered: Vec<&str> = protocols(request.headers()).collect();
    let is_resumable = offered.contains(&RESUMABLE);
    let chosen = match is_resumable {
        true => Some(HeaderValue::from_static(RESUMABLE)),
        false => plain_protocol(server, &offered),
    };
    let (queue, content) = match is_resumable {
        true => (&server.resumable, Content::Carrier),
        false => (&server.plain, Content::Plain(server.json)),
    };
    let switching = Switching { key, chosen, content };
    switch(server, context, owner, request, switching, queue)
}

/// Responds to a WebSocket upgrade of an added route, and queues the channel in `queue`.
pub(super) fn of_route(
    server: &Arc<Server>,
    context: &ConnectionContext,
    owner: Owner,
    request: Request<Inbound>,
    queue: &mpsc::Sender<WebLine>,
) -> Response<Body> {
    let key = match check(&request) {
        Ok(key) => key,
        Err(response) => return *response,
    };
    let chosen = plain_protocol(server, &protocols(request.headers()).collect::<Vec<_>>());
    let switching = Switching { key, chosen, content: Content::Texts(server.json) };
    switch(server, context, owner, request, switching, queue)
}

/// Chooses from the offered subprotocols of a plain WebSocket. Browsers fail the connection if none of theirs is
/// chosen.
fn plain_protocol(server: &Server, offered: &[&str]) -> Option<HeaderValue> {
    let known =
        |it: &&&str| **it == PLAIN || server.subprotocols.iter().any(|name| name.as_str() == **it);
    let is_token = |it: &&&str| it.starts_with(TOKEN_PREFIX);
    let chosen = offered.iter().find(known).or_else(|| offered.iter().find(is_token))?;
    HeaderValue::from_str(chosen).ok()
}

/// The parameters of an upgrade.
struct Switching {
    key: HeaderValue,
    chosen: Option<HeaderValue>,
    content: Content,
}

/// Accepts an upgrade if there is room in the queue.
fn switch(
    server: &Arc<Server>,
    context: &ConnectionContext,
    owner: Owner,
    mut request: Request<Inbound>,
    Switching { key, chosen, content }: Switching,
    queue: &mpsc::Sender<WebLine>,
) -> Response<Body> {
    let Ok(place) = queue.clone().try_reserve_owned() else {
        return busy(server, "too many clients are waiting to be accepted; try again later");
    };
    let is_resumable = content == Content::Carrier;
    let made = (server.clone(), context.permit.clone(), context.identity);
    // The session protocol signals the end of input itself.
    let half_close =
        !is_resumable && has_word(request.headers(), &header::SEC_WEBSOCKET_EXTENSIONS, HALF_CLOSE);
    let switching = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (server, permit, peer) = made;
        let Ok(Ok(upgraded)) = timeout(SWITCHING, switching).await else { return };
        let Ok(parts) = upgraded.downcast::<Hyper>() else { return };
        let id = permit.id;
        let mut read = BytesMut::from(parts.read_buf);
        read.extend_from_slice(&parts.io.first);
        let made = Made {
            stream: parts.io.stream,
            read,
            role: Role::Server,
            content,
            half_close,
            kind: TransportKind::custom(if server.is_secure { "wss" } else { "ws" }),
            endpoint: server.endpoint.clone(),
            peer,
            principal: owner.principal,
            unauthenticated: server.access.is_open(),
            memory: server.memory.clone(),
            held: Some(Box::new(Present { server: server.clone(), id, _permit: permit })),
        };
        let mut config = server.web_socket;
        if is_resumable {
            // A frame of a session holds one message, which may have the maximum length.
            let max = config.channel.max_message.bytes().saturating_add(OVERHEAD);
            config.channel.max_message = ByteSize::new(max);
        }
        let channel = WebChannel::new(made, config);
        opened(&server, id, channel, place).await;
    });
    switched(&key, chosen, half_close)
}

/// Queues a new WebSocket for its acceptor. If the server has started to close in the meantime, sends
/// the close frame.
async fn opened(server: &Server, id: u64, channel: WebChannel, place: OwnedPermit<WebLine>) {
    let shared = channel.shared().clone();
    let is_open = server.present(id, &shared);
    count(&server.counters.web_sockets);
    place.send(WebLine::WebSocket(Box::new(channel)));
    if !is_open {
        poll_fn(|cx| shared.poll_going_away(cx)).await;
    }
}

/// Keeps the WebSocket in the server's list of open WebSockets until this is dropped.
struct Present {
    server: Arc<Server>,
    id: u64,
    _permit: Arc<super::limiter::ConnectionPermit>,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.server.gone(self.id);
    }
}

/// Returns whether a request asks for an upgrade to a WebSocket.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    has_word(headers, &header::UPGRADE, "websocket")
}

/// Validates an upgrade request and returns its key.
fn check(request: &Request<Inbound>) -> Result<HeaderValue, Box<Response<Body>>> {
    let headers = request.headers();
    let bad = |text| Err(Box::new(line(StatusCode::BAD_REQUEST, text)));
    if !is_upgrade(headers) || !has_word(headers, &header::CONNECTION, "upgrade") {
        let mut response = line(
            StatusCode::UPGRADE_REQUIRED,
            "this path is for WebSockets; send a WebSocket upgrade request",
        );
        let upgrade = HeaderValue::from_static("websocket");
        response.headers_mut().insert(header::UPGRADE, upgrade);
        return Err(Box::new(response));
    }
    if request.version() != Version::HTTP_11 {
        return bad("a WebSocket upgrade must be an HTTP/1.1 request");
    }
    let has_body = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_body || headers.contains_key(header::TRANSFER_ENCODING) {
        return bad("a WebSocket upgrade must not have a body");
    }
    let mut versions = headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    if versions.next().is_none_or(|version| version != "13") || versions.next().is_some() {
        let mut response = line(
            StatusCode::UPGRADE_REQUIRED,
            "unsupported WebSocket version; use Sec-WebSocket-Version: 13",
        );
        let version = HeaderValue::from_static("13");
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, version);
        return Err(Box::new(response));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if key.to_str().is_ok_and(is_key) => Ok(key.clone()),
        _ => bad("the request must have one Sec-WebSocket-Key of 16 bytes in base64"),
    }
}

fn switched(key: &HeaderValue, protocol: Option<HeaderValue>, half_close: bool) -> Response<Body> {
    let answer = accept(key.to_str().unwrap_or_default());
    let mut response = Response::new(Body::Whole(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(answer) = HeaderValue::try_from(answer) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, answer);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    if half_close {
        let extension = HeaderValue::from_static(HALF_CLOSE);
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, extension);
    }
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::pin::pin;

    use tieline_transport::{Acceptor, Channel, CloseReason, Incoming, ReceiverExt, TransportKind};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::{HttpServer, ServerConfig, WebAcceptor};
    use super::*;
    use crate::address::Place;
    use crate::server::limiter::Admission;
    use crate::stream::Stream;
    use crate::token::Token;

    /// A time that is longer than any test takes.
    const GRACE: Duration = Duration::from_secs(600);
    /// The time after which a test that hangs is ended.
    const LIMIT: Duration = Duration::from_secs(60);

    /// A server with one client, whose WebSocket is about to be opened.
    struct Opening {
        http: HttpServer,
        plain: WebAcceptor,
        client: TcpStream,
        channel: WebChannel,
        id: u64,
        place: OwnedPermit<WebLine>,
    }

    async fn opening() -> Opening {
        let place = Place::Tcp { host: "127.0.0.1".into(), port: 0 };
        let config = ServerConfig::new(place, Token::new("the-token-of-this-test").unwrap());
        let (http, plain, _) = HttpServer::listen(config).await.unwrap();
        let server = http.server.clone();
        let Admission::Admitted(permit) = server.limiter.try_admit(None) else { panic!() };
        let id = permit.id;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let made = Made {
            stream: Stream::Tcp(listener.accept().await.unwrap().0),
            read: BytesMut::new(),
            role: Role::Server,
            content: Content::Plain(None),
            half_close: false,
            kind: TransportKind::custom("ws"),
            endpoint: server.endpoint.clone(),
            peer: None,
            principal: None,
            unauthenticated: false,
            memory: None,
            held: Some(Box::new(Present { server: server.clone(), id, _permit: Arc::new(permit) })),
        };
        let channel = WebChannel::new(made, server.web_socket);
        let place = server.plain.clone().try_reserve_owned().unwrap();
        Opening { http, plain, client, channel, id, place }
    }

    /// Receives a close frame and returns its code.
    async fn close_code(client: &mut TcpStream) -> u16 {
        let mut head = [0; 4];
        client.read_exact(&mut head).await.unwrap();
        let [first, _, code @ ..] = head;
        assert_eq!(first, 0x88);
        u16::from_be_bytes(code)
    }

    #[tokio::test]
    async fn client_whose_web_socket_opens_during_shutdown_receives_a_close_frame() {
        let Opening { http, mut plain, mut client, channel, id, place } = opening().await;
        let server = http.server.clone();
        let mut closing = pin!(http.close(GRACE));
        // The list of open WebSockets is read here, without the new one.
        tokio::select! {
            biased;
            () = &mut closing => panic!("a connection is open"),
            () = std::future::ready(()) => {}
        }
        opened(&server, id, channel, place).await;
        let whole = async {
            let (_sender, mut receiver) = plain.accept().await.unwrap().split();
            assert_eq!(close_code(&mut client).await, 1001);
            // The client sends the same close frame, masked with zeros.
            client.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.unwrap();
            assert!(matches!(receiver.recv().await, Incoming::End(CloseReason::ByUs)));
        };
        timeout(LIMIT, whole).await.unwrap();
        timeout(LIMIT, closing).await.unwrap();
    }

    #[tokio::test]
    async fn client_whose_web_socket_opens_without_an_acceptor_receives_a_close_frame() {
        let Opening { http, plain, mut client, channel, id, place } = opening().await;
        drop(plain);
        opened(&http.server, id, channel, place).await;
        assert_eq!(timeout(LIMIT, close_code(&mut client)).await.unwrap(), 1001);
        timeout(LIMIT, http.close(GRACE)).await.unwrap();
    }

    #[tokio::test]
    async fn client_whose_web_socket_is_never_accepted_receives_a_close_frame() {
        let Opening { http, plain, mut client, channel, id, place } = opening().await;
        opened(&http.server, id, channel, place).await;
        drop(plain);
        assert_eq!(timeout(LIMIT, close_code(&mut client)).await.unwrap(), 1001);
        timeout(LIMIT, http.close(GRACE)).await.unwrap();
    }
}
