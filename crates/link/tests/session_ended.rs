//! A client whose connection was lost when the server ended the session gets the last frames when it returns. In
//! virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/by_hand.rs"]
mod by_hand;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use by_hand::{ByHand, hello};
use bytes::Bytes;
use tieline_link::{LineOptions, Session, SessionOptions, Sessions};
use tieline_proto::session::{Farewell, Frame, Hello, Position, Refusal, Secret, Welcome};
use tieline_proto::{ByteSize, LengthPrefix};
use tieline_transport::{
    Acceptor, BoxChannel, BoxFuture, Channel, ChannelConfig, CloseReason, Connector, DynConnector,
    Framed, Incoming, Memory, MemoryConfig, Receiver, ReceiverExt, Sender, SenderExt,
    TransportError, memory_pair,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How many ended sessions a server remembers, and how many bytes of messages for all of them.
const REMEMBERED: usize = 1024;
const REMEMBERED_BYTES: usize = 1 << 20;

const UNREAD: CloseReason = CloseReason::InputUnread(9);
const UNREAD_TEXT: &str = "the far side ended without reading the last 9 bytes of its input";

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let limit = Duration::from_secs(100_000);
    runtime.block_on(async { timeout(limit, test).await.expect("the test hangs") })
}

fn data(sequence: u64, message: &'static str) -> Frame {
    Frame::Data { sequence, acknowledged: 0, message: Bytes::from_static(message.as_bytes()) }
}

/// Returns the greeting of a client that has sent one message and received `received`.
fn again(welcome: &Welcome, received: u64) -> Hello {
    let position = Position { received, acknowledged: received, sent: 1 };
    Hello { position, ..hello(Some(welcome)) }
}

type Way = Framed<Memory, LengthPrefix>;

struct Stage {
    way: Way,
    sessions: Sessions,
}

impl Stage {
    async fn new(options: SessionOptions) -> Self {
        let config = MemoryConfig { buffer: ByteSize::mib(4), ..MemoryConfig::new("door") };
        let channel = ChannelConfig::default();
        let way = Framed::new(Memory::default(), config, LengthPrefix::default(), channel).unwrap();
        let acceptor = Box::new(way.clone().listen().await.unwrap());
        Self { way, sessions: Sessions::new(acceptor, options, LineOptions::default()) }
    }

    async fn by_hand(&self) -> ByHand {
        ByHand::over(Connector::connect(&self.way).await.unwrap())
    }

    /// Runs a session in which the client sends one message, and whose connection is lost while its server sends
    /// these messages and ends it for this reason. Returns the welcome.
    async fn ended(
        &mut self,
        messages: impl IntoIterator<Item = Bytes>,
        reason: CloseReason,
    ) -> Welcome {
        let mut client = self.by_hand().await;
        let welcome = client.greet(hello(None)).await.unwrap();
        let server = self.sessions.accept().await.unwrap();
        client.send_frame(data(1, "{}")).await;
        let control = server.control().clone();
        let (mut to_client, mut from_client) = server.split();
        assert!(matches!(from_client.recv().await, Incoming::Message(_)));
        drop(client);
        for message in messages {
            to_client.send(message).await.unwrap();
        }
        control.report_at_close(reason);
        welcome
    }

    /// Greets the server and returns what follows: the messages, and the farewell.
    async fn told(&self, hello: Hello) -> Result<(Vec<(u64, Bytes)>, Farewell), (Refusal, String)> {
        let mut client = self.by_hand().await;
        client.send_frame(Frame::Hello(hello)).await;
        match client.next_frame().await {
            Some(Frame::Welcome(_)) => {}
            Some(Frame::Refused { refusal, text }) => return Err((refusal, text)),
            other => panic!("{other:?}"),
        }
        let mut messages = Vec::new();
        loop {
            match client.next_frame().await {
                Some(Frame::Data { sequence, message, .. }) => messages.push((sequence, message)),
                Some(Frame::Bye(farewell)) => {
                    assert!(client.next_frame().await.is_none(), "a frame after the farewell");
                    return Ok((messages, farewell));
                }
                Some(Frame::Ack { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A connector that connects only while it is open. The test cuts its line: what is in transit is lost.
struct Gate {
    way: Way,
    is_open: watch::Sender<bool>,
    forwarding: Mutex<JoinSet<()>>,
}

impl Gate {
    fn cut(&self) {
        self.is_open.send_replace(false);
        self.forwarding.lock().unwrap().abort_all();
    }
}

async fn forward(from: &mut impl Receiver, to: &mut impl Sender) {
    while let Incoming::Message(message) = from.recv().await {
        to.send(message).await.unwrap();
    }
}

impl DynConnector for Gate {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async {
            self.is_open.subscribe().wait_for(|is_open| *is_open).await.unwrap();
            let (mut to_server, mut from_server) = Connector::connect(&self.way).await?.split();
            let (client, end) = memory_pair();
            let (mut to_client, mut from_client) = end.split();
            self.forwarding.lock().unwrap().spawn(async move {
                tokio::select! {
                    () = forward(&mut from_client, &mut to_server) => {}
                    () = forward(&mut from_server, &mut to_client) => {}
                }
            });
            Ok(client.boxed())
        })
    }
}

/// How a server ends its session.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Drop,
    Close,
    /// The client has ended its direction before.
    CloseAfterEnd,
}

/// Returns what a client receives, and why its session ends, if the server ends it for this reason. `cut`: the
/// connection is lost after the server has written its last frames, and before they arrive.
async fn outcome(
    reason: Option<CloseReason>,
    ending: Ending,
    cut: bool,
) -> (Vec<Bytes>, CloseReason) {
    let mut stage = Stage::new(SessionOptions::default()).await;
    let (is_open, forwarding) = (watch::Sender::new(true), Mutex::default());
    let gate = Arc::new(Gate { way: stage.way.clone(), is_open, forwarding });
    let connecting =
        Session::connect(gate.clone(), SessionOptions::default(), LineOptions::default());
    let (client, server) = tokio::join!(connecting, stage.sessions.accept());
    let ((mut to_server, mut from_server), server) = (client.unwrap().split(), server.unwrap());
    to_server.send("one").await.unwrap();
    let control = server.control().clone();
    let (mut to_client, mut from_client) = server.split();
    assert!(matches!(from_client.recv().await, Incoming::Message(_)));
    // The first one is acknowledged with this message, the second one is never consumed.
    to_client.send("answer").await.unwrap();
    let mut messages = Vec::new();
    if let Incoming::Message(message) = from_server.recv().await {
        messages.push(message);
    }
    to_server.send("two").await.unwrap();
    if let Ending::CloseAfterEnd = ending {
        to_server.close().await.unwrap();
    }
    // From here to the end of the session no other task runs.
    to_client.start_send(Bytes::from_static(b"last")).unwrap();
    if let Some(reason) = reason {
        control.report_at_close(reason);
    }
    if cut {
        gate.cut();
    }
    if !matches!(ending, Ending::Drop) {
        to_client.close().await.unwrap();
    }
    drop((to_client, from_client));
    gate.is_open.send_replace(true);
    loop {
        match from_server.recv().await {
            Incoming::Message(message) => messages.push(message),
            Incoming::End(reason) => return (messages, reason),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn client_reports_the_same_end_whether_or_not_the_farewell_was_lost_with_its_connection() {
    for reason in [None, Some(UNREAD), Some(CloseReason::Overrun)] {
        block_on(async {
            let (messages, end) = outcome(reason.clone(), Ending::Drop, false).await;
            let (messages_after_cut, end_after_cut) = outcome(reason, Ending::Drop, true).await;
            assert_eq!(messages, ["answer", "last"]);
            assert_eq!(messages_after_cut, messages);
            assert_eq!(end_after_cut.to_string(), end.to_string());
            assert!(end.to_string().ends_with("; 1 of 2 messages sent were acknowledged"), "{end}");
        });
    }
}

#[test]
fn server_that_closes_because_of_a_failure_reports_it_after_its_last_message() {
    for ending in [Ending::Close, Ending::CloseAfterEnd] {
        for cut in [false, true] {
            block_on(async {
                let (messages, end) = outcome(Some(UNREAD), ending, cut).await;
                assert_eq!(messages, ["answer", "last"], "{ending:?}, cut: {cut}");
                let end = end.to_string();
                assert!(end.contains(UNREAD_TEXT), "{ending:?}, cut: {cut}: {end}");
            });
        }
    }
}

/// More messages than a server keeps for the clients of ended sessions.
#[test]
fn client_that_was_away_during_a_failure_gets_all_messages_before_the_farewell() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let mut client = stage.by_hand().await;
        let welcome = client.greet(hello(None)).await.unwrap();
        let server = stage.sessions.accept().await.unwrap();
        server.control().report_at_close(UNREAD);
        let (mut to_client, from_client) = server.split();
        drop(client);
        let half = Bytes::from(vec![b'x'; REMEMBERED_BYTES / 2]);
        for _ in 0..4 {
            to_client.send(half.clone()).await.unwrap();
        }
        to_client.close().await.unwrap();
        drop((to_client, from_client));
        let mut client = stage.by_hand().await;
        let again = Hello { position: Position::default(), ..hello(Some(&welcome)) };
        client.greet(again).await.unwrap();
        for expected in 1..=4 {
            loop {
                match client.next_frame().await {
                    Some(Frame::Data { sequence, message, .. }) => {
                        assert_eq!((sequence, message.len()), (expected, half.len()));
                        break;
                    }
                    Some(Frame::Ack { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        client.send_frame(Frame::Ack { acknowledged: 4 }).await;
        assert_eq!(client.farewell().await, UNREAD_TEXT);
    });
}

#[test]
fn returning_client_gets_the_messages_that_it_lacks_and_the_farewell() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let messages = ["one", "two"].map(Bytes::from);
        let welcome = stage.ended(messages, UNREAD).await;
        let farewell = Farewell { received: 1, text: UNREAD_TEXT.into() };
        let (one, two) = ((1, "one".into()), (2, "two".into()));
        // The answer may be lost, too. The client has not seen the new secret then.
        for _ in 0..2 {
            let told = stage.told(again(&welcome, 0)).await;
            assert_eq!(told, Ok((vec![one.clone(), two.clone()], farewell.clone())));
        }
        let told = stage.told(again(&welcome, 1)).await;
        assert_eq!(told, Ok((vec![two], farewell.clone())));
        // What is acknowledged is not kept.
        let refused = stage.told(again(&welcome, 0)).await;
        assert_eq!(refused, Err((Refusal::Gap, UNREAD_TEXT.into())));
        assert_eq!(stage.told(again(&welcome, 2)).await, Ok((vec![], farewell)));
    });
}

#[test]
fn only_the_client_with_the_secret_learns_how_a_session_ended() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let welcome = stage.ended([], UNREAD).await;
        let (session, secret) = (welcome.session, welcome.secret.clone());
        for (secret, epoch) in [(Secret([0; 16]), 1), (secret, 2)] {
            let hello = Hello { resumes: Some((session, secret, epoch)), ..again(&welcome, 0) };
            let refused = stage.told(hello).await;
            assert_eq!(refused, Err((Refusal::Unknown, String::new())));
        }
        assert!(stage.told(again(&welcome, 0)).await.is_ok());
    });
}

#[test]
fn end_of_a_session_is_remembered_for_the_grace_period() {
    block_on(async {
        let grace = Duration::from_secs(60);
        let options = SessionOptions { grace, ..SessionOptions::default() };
        let mut stage = Stage::new(options).await;
        let welcome = stage.ended([], UNREAD).await;
        tokio::time::sleep(grace - Duration::from_secs(1)).await;
        assert!(stage.told(again(&welcome, 0)).await.is_ok());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let refused = stage.told(again(&welcome, 0)).await;
        assert_eq!(refused, Err((Refusal::Unknown, String::new())));
    });
}

#[test]
fn number_of_remembered_sessions_is_bounded() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let mut ended = Vec::new();
        for _ in 0..=REMEMBERED {
            ended.push(stage.ended([], UNREAD).await);
        }
        let refused = stage.told(again(&ended[0], 0)).await;
        assert_eq!(refused, Err((Refusal::Unknown, String::new())));
        for welcome in [&ended[1], &ended[REMEMBERED]] {
            assert!(stage.told(again(welcome, 0)).await.is_ok());
        }
    });
}

/// The reason is still known to a client that lacks nothing.
#[test]
fn bytes_kept_for_ended_sessions_are_bounded() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let half = Bytes::from(vec![b'x'; REMEMBERED_BYTES / 2]);
        let first = stage.ended([half.clone()], UNREAD).await;
        let second = stage.ended([half.clone()], UNREAD).await;
        assert!(stage.told(again(&first, 0)).await.is_ok());
        let third = stage.ended([half.clone()], UNREAD).await;
        let refused = stage.told(again(&first, 0)).await;
        assert_eq!(refused, Err((Refusal::Gap, UNREAD_TEXT.into())));
        for welcome in [second, third] {
            let (messages, _) = stage.told(again(&welcome, 0)).await.unwrap();
            assert_eq!(messages, [(1, half.clone())]);
        }
    });
}
