//! Tests that a web session belongs to the principal that started it, even if another secret is
//! presented later.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../link/tests/support/by_hand.rs"]
mod by_hand;
mod support;

use by_hand::{ByHand, hello};
use bytes::Bytes;
use support::{BEARER, config, registry_with, serve, status, tls, tls_client, upgrade};
use tieline_http::ClientConfig;
use tieline_link::{LineOptions, SessionOptions, Sessions};
use tieline_proto::session::{Frame, Hello, Position, Refusal};
use tieline_transport::{
    Acceptor, Channel, Endpoint, Incoming, Options, Principal, ReceiverExt, SenderExt,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn a_session_is_not_resumed_under_another_certificate() {
    let served = serve(tls(Some("root.pem"))).await;
    let url: Endpoint = format!("resume+wss://127.0.0.1:{}/ws", served.port).parse().unwrap();
    let acceptor: Box<dyn tieline_transport::DynAcceptor> = Box::new(served.resumable.unwrap());
    let mut sessions = Sessions::new(acceptor, SessionOptions::default(), LineOptions::default());
    let connect = async |certificate: &str| {
        let registry =
            registry_with(ClientConfig { tls: tls_client(Some(certificate)), ..support::client() });
        let line = registry.connect(&url.clone().carrier(), &Options::default()).await;
        ByHand::over(line.unwrap())
    };

    let mut owner = connect("client").await;
    let welcome = owner.greet(hello(None)).await.unwrap();
    let (mut to_owner, mut from_owner) = Acceptor::accept(&mut sessions).await.unwrap().split();

    // The thief knows the session's name, secret and epoch, and has the token.
    let mut thief = connect("other-client").await;
    assert_eq!(thief.greet(hello(Some(&welcome))).await.unwrap_err(), Refusal::Principal);
    // The thief may start a new session.
    let mut thief = connect("other-client").await;
    thief.greet(hello(None)).await.unwrap();

    // The session continues for its owner over the existing connection.
    let message = Bytes::from_static(b"mine");
    owner.send_frame(Frame::Data { sequence: 1, acknowledged: 0, message }).await;
    assert!(matches!(from_owner.recv().await, Incoming::Message(it) if it == "mine"));
    to_owner.send("still yours").await.unwrap();
    while !matches!(owner.next_frame().await, Some(Frame::Data { sequence: 1, .. })) {}
    drop(owner);
    // It also continues over a new connection.
    let mut owner = connect("client").await;
    let position = Position { received: 1, acknowledged: 1, sent: 1 };
    let again = owner.greet(Hello { position, ..hello(Some(&welcome)) }).await.unwrap();
    assert_eq!((again.session, again.epoch), (welcome.session, 2));
}

/// Connects with this header line and returns the principal of the connection.
async fn principal(served: &mut support::Served, line: &str) -> Option<Principal> {
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    stream.write_all(upgrade(served.port, line).as_bytes()).await.unwrap();
    assert_eq!(status(&mut stream).await, 101);
    served.plain.accept().await.unwrap().control().principal()
}

#[tokio::test]
async fn each_browser_and_the_token_are_different_principals() {
    let mut served = serve(config()).await;
    let mut cookies = Vec::new();
    for _ in 0..2 {
        cookies.push(served.cookie("").await.expect("the server set no cookie"));
    }
    let bearer = principal(&mut served, BEARER).await;
    let one = principal(&mut served, &cookies[0]).await;
    let other = principal(&mut served, &cookies[1]).await;
    assert!(bearer.is_some() && one.is_some() && other.is_some());
    assert!(bearer != one && bearer != other && one != other);
    assert_eq!(
        principal(&mut served, &cookies[0]).await,
        one,
        "the same cookie on another connection"
    );
    // A second one-time URL does not change the principal of a browser that is logged in.
    assert_eq!(served.cookie(&cookies[0]).await, None);
}

#[tokio::test]
async fn without_authentication_there_is_no_principal() {
    let access = tieline_http::Access::Anybody;
    let mut served = serve(tieline_http::ServerConfig { access, ..config() }).await;
    assert_eq!(principal(&mut served, "").await, None);
}
