//! Clients that violate the session protocol, whose frames the tests write one by one.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/by_hand.rs"]
mod by_hand;

use std::time::Duration;

use bytes::Bytes;
use tieline_link::{SessionOptions, listen};
use tieline_proto::session::{Frame, Hello, Position, Refusal, Violation, Welcome};
use tieline_proto::{FrameError, FramingKind};
use tieline_testkit::wait::block_on;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, DynAcceptor, Endpoint, Incoming, LostBy, Options,
    ReceiverExt, Registry, SenderExt,
};

use by_hand::{ByHand, hello};

struct Stage {
    endpoint: Endpoint,
    acceptor: Box<dyn DynAcceptor>,
    _directory: tempfile::TempDir,
}

impl Stage {
    async fn new(options: SessionOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::unix(directory.path().join("s")).resumable();
        let acceptor = listen(&Registry::new(), &endpoint, &Options::default(), options).await;
        Self { endpoint, acceptor: acceptor.unwrap(), _directory: directory }
    }

    /// Returns the same endpoint with the framing `lines`.
    fn plain(&self) -> Endpoint {
        self.endpoint.clone().with_framing(FramingKind::Lines)
    }

    async fn by_hand(&self) -> ByHand {
        let line = Registry::new().connect(&self.endpoint.carrier(), &Options::default()).await;
        ByHand::over(line.unwrap())
    }

    /// Begins a session, and returns its client, its welcome and its server's end.
    async fn begin(&mut self) -> (ByHand, Welcome, BoxChannel) {
        let mut client = self.by_hand().await;
        let welcome = client.greet(hello(None)).await.unwrap();
        (client, welcome, self.acceptor.accept().await.unwrap())
    }
}

fn data(sequence: u64, acknowledged: u64) -> Frame {
    Frame::Data { sequence, acknowledged, message: Bytes::from_static(b"{}") }
}

#[test]
fn replaced_secret_is_refused() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let (_first, one, server) = stage.begin().await;
        let mut second = stage.by_hand().await;
        let two = second.greet(hello(Some(&one))).await.unwrap();
        assert_eq!((two.session, two.epoch), (one.session, 2));
        // Any frame shows that the client has received the second welcome.
        second.send_frame(data(1, 0)).await;
        let (_sender, mut receiver) = server.split();
        assert!(matches!(receiver.recv().await, Incoming::Message(_)));

        let mut thief = stage.by_hand().await;
        assert_eq!(thief.greet(hello(Some(&one))).await.unwrap_err(), Refusal::Secret);
        // The right secret with another epoch, a guessed secret and a guessed session are refused, too.
        for (secret, epoch, session, refused) in [
            (two.secret.clone(), 1, two.session, Refusal::Epoch),
            (tieline_proto::session::Secret([0; 16]), 2, two.session, Refusal::Secret),
            (two.secret.clone(), 2, tieline_proto::session::SessionId([0; 16]), Refusal::Unknown),
        ] {
            let resumes = Some((session, secret, epoch));
            let position = Position { sent: 1, ..Position::default() };
            let refusal = stage.by_hand().await.greet(Hello { resumes, position }).await;
            assert_eq!(refusal.unwrap_err(), refused);
        }
        // The session is not affected by these attempts.
        second.send_frame(data(2, 0)).await;
        assert!(matches!(receiver.recv().await, Incoming::Message(_)));
    });
}

#[test]
fn impossible_position_is_refused_and_the_session_remains() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let (mut first, welcome, server) = stage.begin().await;
        let (mut to_client, mut from_client) = server.split();
        first.send_frame(data(1, 0)).await;
        assert!(matches!(from_client.recv().await, Incoming::Message(_)));
        to_client.send("one").await.unwrap();
        for (received, acknowledged, sent, refused) in
            [(2, 0, 1, Refusal::NeverSent), (1, 2, 1, Refusal::NeverSent), (0, 0, 0, Refusal::Gap)]
        {
            let position = Position { received, acknowledged, sent };
            let hello = Hello { position, ..hello(Some(&welcome)) };
            assert_eq!(stage.by_hand().await.greet(hello).await.unwrap_err(), refused);
        }
        let position = Position { received: 1, acknowledged: 1, sent: 1 };
        let hello = Hello { position, ..hello(Some(&welcome)) };
        let mut second = stage.by_hand().await;
        assert_eq!(second.greet(hello).await.unwrap().position.received, 1);
        // The previous connection is fenced off.
        while first.next_frame().await.is_some() {}
    });
}

#[test]
fn violation_is_reported_to_both_ends_with_what_was_delivered() {
    for (frames, violation, words) in [
        (vec![data(2, 0)], Violation::Gap { expected: 1, got: 2 }, "expected message 1"),
        (
            vec![data(1, 2)],
            Violation::NeverSent { acknowledged: 2, sent: 1 },
            "message 2 was acknowledged",
        ),
        (
            vec![Frame::End { sequence: 1, acknowledged: 0 }, data(2, 0)],
            Violation::AfterEnd,
            "after the end",
        ),
        (vec![Frame::Hello(hello(None))], Violation::Handshake, "handshake"),
    ] {
        block_on(async {
            let mut stage = Stage::new(SessionOptions::default()).await;
            let (mut client, _, server) = stage.begin().await;
            let control = server.control().clone();
            let (mut to_client, mut from_client) = server.split();
            to_client.send("one").await.unwrap();
            for frame in frames {
                client.send_frame(frame).await;
            }
            assert!(client.farewell().await.contains(words), "{words}");
            while !matches!(from_client.recv().await, Incoming::End(_)) {}
            let reason = control.close_reason().unwrap();
            let CloseReason::SessionLost(lost) = &reason else { panic!("{reason}") };
            assert!(matches!(lost.cause, LostBy::Violation(it) if it == violation), "{lost}");
            assert_eq!(lost.delivered.sent, 1);
        });
    }
}

#[test]
fn invalid_greetings_are_refused_in_a_form_that_the_client_can_read() {
    block_on(async {
        let quick = Duration::from_millis(100);
        let options = SessionOptions { handshake_timeout: quick, ..SessionOptions::default() };
        let mut stage = Stage::new(options).await;
        let mut later = Frame::Hello(hello(None)).to_bytes().to_vec();
        later[5] = 2;
        let other = b"{\"jsonrpc\":\"2.0\"}".to_vec();
        for (greeting, refused) in [
            (later, Refusal::Version),
            (other, Refusal::Malformed),
            (data(1, 0).to_bytes().to_vec(), Refusal::Malformed),
            (Vec::new(), Refusal::Malformed),
        ] {
            let mut client = stage.by_hand().await;
            client.sender.send(greeting).await.unwrap();
            let answer = client.next_frame().await;
            let Some(Frame::Refused { refusal, .. }) = answer else { panic!("{answer:?}") };
            assert_eq!(refusal, refused);
        }
        // A client that sends lines receives a text that says how to request a session.
        let is_refused = |incoming| match incoming {
            Incoming::End(reason @ CloseReason::Protocol(FrameError::UnexpectedSession)) => {
                assert!(reason.to_string().ends_with("or add --resume"), "{reason}");
            }
            other => panic!("{other:?}"),
        };
        let lines = Registry::new().connect(&stage.plain(), &Options::default()).await.unwrap();
        let (mut sender, mut receiver) = lines.split();
        sender.send(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await.unwrap();
        is_refused(receiver.recv().await);
        // So does a client that sends fewer bytes than the length field of a frame has.
        let lines = Registry::new().connect(&stage.plain(), &Options::default()).await.unwrap();
        let (mut sender, mut receiver) = lines.split();
        sender.send("5").await.unwrap();
        sender.close().await.unwrap();
        is_refused(receiver.recv().await);
        // So does a client that closes its direction without sending anything.
        let lines = Registry::new().connect(&stage.plain(), &Options::default()).await.unwrap();
        let (mut sender, mut receiver) = lines.split();
        sender.close().await.unwrap();
        is_refused(receiver.recv().await);
        // A silent client is disconnected after the timeout.
        let mut silent = stage.by_hand().await;
        assert!(silent.next_frame().await.is_none());
        // None of these clients was accepted.
        let (_client, _, server) = stage.begin().await;
        drop(server);
    });
}

#[test]
fn sessions_above_the_limit_are_refused() {
    block_on(async {
        let options = SessionOptions { max_sessions: 1, ..SessionOptions::default() };
        let mut stage = Stage::new(options).await;
        let (_client, _, server) = stage.begin().await;
        let refusal = stage.by_hand().await.greet(hello(None)).await.unwrap_err();
        assert_eq!(refusal, Refusal::Full);
        drop(server);
        let (_client, _, _server) = stage.begin().await;
    });
}

#[test]
fn client_that_missed_the_end_of_a_session_receives_it_again() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let (mut client, welcome, server) = stage.begin().await;
        let (mut to_client, mut from_client) = server.split();
        client.send_frame(data(1, 0)).await;
        client.send_frame(Frame::End { sequence: 2, acknowledged: 0 }).await;
        assert!(matches!(from_client.recv().await, Incoming::Message(_)));
        assert!(matches!(from_client.recv().await, Incoming::End(CloseReason::ByPeer)));
        to_client.close().await.unwrap();
        // The server has received everything and drops the session; its last acknowledgement is lost.
        client.send_frame(Frame::Ack { acknowledged: 1 }).await;
        while client.next_frame().await.is_some() {}
        drop((client, to_client, from_client));

        let position = Position { received: 1, acknowledged: 1, sent: 2 };
        let mut again = stage.by_hand().await;
        let hello = Hello { position, ..hello(Some(&welcome)) };
        let final_welcome = again.greet(hello.clone()).await.unwrap();
        assert_eq!((final_welcome.position.received, final_welcome.position.sent), (2, 1));
        assert_eq!(again.farewell().await, "");
        // The greeting is refused with another secret, or if the client has missed messages.
        let guessed = tieline_proto::session::Secret([0; 16]);
        let resumes = Some((welcome.session, guessed, 1));
        let thief = stage.by_hand().await.greet(Hello { resumes, position }).await;
        assert_eq!(thief.unwrap_err(), Refusal::Unknown);
        let position = Position { received: 0, acknowledged: 0, ..position };
        let lacking = stage.by_hand().await.greet(Hello { position, ..hello }).await;
        assert_eq!(lacking.unwrap_err(), Refusal::Gap);
    });
}
