//! Sessions over WebSockets: what is on its way when a connection is cut is not lost, and not doubled.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{BEARER, close_code, config, frame, registry, serve, status, upgrade};
use tieline_link::{LineOptions, SessionOptions, Sessions};
use tieline_proto::session::LARGEST_GREETING;
use tieline_transport::{DynAcceptor, Endpoint, ErrorKind, Options};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_session_survives_a_thousand_web_sockets_that_are_cut_in_mid_frame() {
    let url = |port| format!("resume+ws://127.0.0.1:{port}/ws");
    support::cuts::a_thousand(url, |counts| counts.web_sockets).await;
}

/// Whoever was let in is a stranger to the sessions until he has greeted: what is longer than any greeting
/// is refused by its length, and nothing of it is waited for.
#[tokio::test]
async fn a_first_message_is_no_longer_than_a_greeting() {
    let served = serve(config()).await;
    let acceptor: Box<dyn DynAcceptor> = Box::new(served.resumable.unwrap());
    let _sessions = Sessions::new(acceptor, SessionOptions::default(), LineOptions::default());
    let longest = LARGEST_GREETING.bytes();
    let knock = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        let more = format!("{BEARER}Sec-WebSocket-Protocol: tieline.1\r\n");
        stream.write_all(upgrade(served.port, &more).as_bytes()).await.unwrap();
        assert_eq!(status(&mut stream).await, 101);
        stream.write_all(bytes).await.unwrap();
        close_code(&mut stream).await
    };
    // No greeting, but short enough to be read and answered.
    assert_eq!(knock(&frame(0x82, &vec![b'x'; longest])).await, Some(1000));
    // The head is all that comes of these.
    for length in [longest + 1, 1 << 16, 1 << 20] {
        let whole = frame(0x82, &vec![b'x'; length]);
        assert_eq!(knock(&whole[..whole.len() - length]).await, Some(1009), "{length}");
    }
}

/// It is asked for by its subprotocol, and whoever does not grant it is not taken for one that does.
#[tokio::test]
async fn a_server_that_knows_no_sessions_is_told_from_one_that_does() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = support::head(&mut stream).await;
        assert!(request.contains("sec-websocket-protocol: tieline.1\r\n"), "{request}");
        // What any other server answers.
        stream
            .write_all(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            .await
            .unwrap();
        let key = request.split("sec-websocket-key: ").nth(1).unwrap();
        let accept = accept_of(key.split("\r\n").next().unwrap());
        stream
            .write_all(format!("Sec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        std::future::pending::<()>().await;
    });
    let url: Endpoint = format!("resume+ws://127.0.0.1:{port}/ws").parse().unwrap();
    let options = SessionOptions::default();
    let connector =
        tieline_link::connector(&registry(), &url, &Options::default(), options).unwrap();
    let Err(error) = connector.connect().await else { panic!("there is a session") };
    assert!(matches!(error.kind(), ErrorKind::NoSession { .. }), "{error}");
    for url in ["lines+ws://127.0.0.1/ws", "content-length+ws://127.0.0.1/ws"] {
        let error = support::refused(&registry(), url).await;
        assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error}");
    }
}

fn accept_of(key: &str) -> String {
    let script = "import base64,hashlib,sys;print(base64.b64encode(hashlib.sha1((sys.argv[1]+\
                  '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').encode()).digest()).decode())";
    let output = std::process::Command::new("python3").args(["-c", script, key]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
