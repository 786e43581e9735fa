//! Hostile or unlucky clients of a session server, whose frames the tests write one by one. The tests
//! run in virtual time: a pause ends when no task has anything left to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/by_hand.rs"]
mod by_hand;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use by_hand::{ByHand, hello};
use tieline_link::{LineOptions, Session, SessionOptions, Sessions};
use tieline_proto::session::{Frame, Position, Refusal, Secret, SessionId, Welcome};
use tieline_proto::{ByteSize, LengthPrefix};
use tieline_transport::{
    Acceptor, Channel, ChannelConfig, CloseReason, Connector, ErrorKind, Framed, Incoming, Memory,
    MemoryConfig, ReceiverExt, SendError, SenderExt, TransportError,
};
use tokio::time::{sleep, timeout};

const PAUSE: Duration = Duration::from_secs(1);

struct Stage {
    framed: Framed<Memory, LengthPrefix>,
    sessions: Sessions,
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let limit = Duration::from_secs(100_000);
    runtime.block_on(async { timeout(limit, test).await.expect("the test hangs") })
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

impl Stage {
    /// Creates a server whose connections buffer `buffer` bytes in each direction.
    async fn new(buffer: usize, options: SessionOptions) -> Self {
        let config = MemoryConfig { buffer: ByteSize::new(buffer), ..MemoryConfig::new("raw") };
        let framed = Framed::new(
            Memory::default(),
            config,
            LengthPrefix::default(),
            ChannelConfig::default(),
        );
        let framed = framed.unwrap();
        let acceptor = Box::new(framed.clone().listen().await.unwrap());
        Self { framed, sessions: Sessions::new(acceptor, options, LineOptions::default()) }
    }

    async fn by_hand(&self) -> ByHand {
        ByHand::over(self.framed.connect().await.unwrap())
    }

    /// Begins a session, and returns its client, its welcome and its server's end.
    async fn begin(&mut self) -> (ByHand, Welcome, Session) {
        let mut client = self.by_hand().await;
        let welcome = client.greet(hello(None)).await.unwrap();
        (client, welcome, self.sessions.accept().await.unwrap())
    }
}

fn data(sequence: u64, message: impl Into<bytes::Bytes>) -> Frame {
    Frame::Data { sequence, acknowledged: 0, message: message.into() }
}

#[test]
fn connection_replaced_during_its_welcome_does_not_block_the_next() {
    block_on(async {
        let mut stage = Stage::new(16, SessionOptions::default()).await;
        let (first, welcome, _server) = stage.begin().await;
        drop(first);
        // The welcome does not fit into the connection's buffer.
        let mut second = stage.by_hand().await;
        second.send_frame(Frame::Hello(hello(Some(&welcome)))).await;
        sleep(PAUSE).await;
        let mut third = stage.by_hand().await;
        third.send_frame(Frame::Hello(hello(Some(&welcome)))).await;
        sleep(PAUSE).await;
        // The third connection is accepted, although the second neither reads nor disconnects.
        assert_eq!(second.answer().await.unwrap().epoch, 2);
        assert_eq!(third.answer().await.unwrap().epoch, 3);
        drop(second);
    });
}

#[test]
fn sessions_waiting_to_be_accepted_do_not_block_resumption() {
    block_on(async {
        let mut stage = Stage::new(64 << 10, SessionOptions::default()).await;
        let (first, welcome, _server) = stage.begin().await;
        let mut waiting = Vec::new();
        for _ in 0..300 {
            let mut client = stage.by_hand().await;
            client.greet(hello(None)).await.unwrap();
            waiting.push(client);
        }
        drop(first);
        assert_eq!(stage.by_hand().await.greet(hello(Some(&welcome))).await.unwrap().epoch, 2);
        // All of them can still be accepted.
        for _ in 0..300 {
            stage.sessions.accept().await.unwrap();
        }
    });
}

#[test]
fn ended_sessions_count_against_the_limit_until_they_are_accepted() {
    block_on(async {
        let options = SessionOptions { max_sessions: 4, ..SessionOptions::default() };
        let stage = Stage::new(64 << 10, options).await;
        let mut refused = None;
        for begun in 0..100 {
            let mut client = stage.by_hand().await;
            match client.greet(hello(None)).await {
                Ok(_) => {}
                Err(refusal) => {
                    refused = Some((begun, refusal));
                    break;
                }
            }
            let farewell = tieline_proto::session::Farewell { received: 0, text: String::new() };
            client.send_frame(Frame::Bye(farewell)).await;
            while client.next_frame().await.is_some() {}
        }
        assert_eq!(refused, Some((4, Refusal::Full)));
    });
}

/// Returns an in-memory endpoint that carries frames.
fn memory_endpoint() -> Framed<Memory, LengthPrefix> {
    let (memory, config) = (Memory::default(), MemoryConfig::new("raw"));
    Framed::new(memory, config, LengthPrefix::default(), ChannelConfig::default()).unwrap()
}

#[test]
fn commit_for_a_lost_session_does_not_apply_to_the_next() {
    block_on(async {
        let framed = memory_endpoint();
        let mut acceptor = framed.clone().listen().await.unwrap();
        let mut options = SessionOptions::default();
        options.session.commits = true;
        let connecting =
            Session::connect(std::sync::Arc::new(framed), options, LineOptions::default());
        let mut accept = async || {
            let (sender, receiver) = acceptor.accept().await.unwrap().boxed().split();
            let mut server = ByHand { sender, receiver };
            assert!(matches!(server.next_frame().await, Some(Frame::Hello(_))));
            server
        };
        let welcome = |name| Welcome {
            session: tieline_proto::session::SessionId([name; 16]),
            secret: tieline_proto::session::Secret([name; 16]),
            epoch: 1,
            position: Position::default(),
        };
        let serving = async {
            let mut server = accept().await;
            server.send_frame(Frame::Welcome(welcome(1))).await;
            server
        };
        let (session, mut server) = tokio::join!(connecting, serving);
        let (mut to_server, mut from_server) = session.unwrap().split();
        let commits = from_server.commits();
        server.send_frame(data(1, "of the first")).await;
        assert!(matches!(from_server.recv().await, Incoming::Message(_)));
        drop(server);
        // The server does not know the session, so a new one begins, with a message.
        let mut server = accept().await;
        let unknown = Frame::Refused { refusal: Refusal::Unknown, text: String::new() };
        server.send_frame(unknown).await;
        let mut server = accept().await;
        server.send_frame(Frame::Welcome(welcome(2))).await;
        server.send_frame(data(1, "of the second")).await;
        sleep(PAUSE).await;
        commits.commit(1);
        // A message sent now may be meant for the lost session, so it waits.
        let mut sending = std::pin::pin!(to_server.send("what is acknowledged?"));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(sending.as_mut().poll(cx)));
        assert!(polled.await.is_pending(), "the message must wait for the reset");
        let reset = from_server.recv().await;
        assert!(matches!(reset, Incoming::Reset(_)), "{reset:?}");
        sending.await.unwrap();
        loop {
            match server.next_frame().await.unwrap() {
                Frame::Data { acknowledged, .. } => {
                    assert_eq!(acknowledged, 0, "the message must not be acknowledged");
                    break;
                }
                Frame::Ack { acknowledged } => assert_eq!(acknowledged, 0),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(from_server.recv().await, Incoming::Message(_)));
        commits.commit(1);
        while !matches!(server.next_frame().await, Some(Frame::Ack { acknowledged: 1 })) {}
    });
}

/// The server forgets the session again and again, and the client's consumer does not receive meanwhile.
#[test]
fn several_sessions_lost_while_nothing_is_received_cause_one_reset() {
    block_on(async {
        let way = memory_endpoint();
        let mut acceptor = way.clone().listen().await.unwrap();
        let connecting =
            Session::connect(Arc::new(way), SessionOptions::default(), LineOptions::default());
        let mut accept = async |answer| {
            let mut server = ByHand::over(acceptor.accept().await.unwrap());
            assert!(matches!(server.next_frame().await, Some(Frame::Hello(_))));
            server.send_frame(answer).await;
            server
        };
        let welcome = |name| {
            let (session, secret) = (SessionId([name; 16]), Secret([name; 16]));
            Frame::Welcome(Welcome { session, secret, epoch: 1, position: Position::default() })
        };
        let unknown = || Frame::Refused { refusal: Refusal::Unknown, text: String::new() };
        let (session, mut server) = tokio::join!(connecting, accept(welcome(0)));
        let (mut to_server, mut from_server) = session.unwrap().split();
        for name in 1..=5 {
            drop(server);
            drop(accept(unknown()).await);
            server = accept(welcome(name)).await;
        }
        server.send_frame(data(1, "of the last")).await;
        sleep(PAUSE).await;
        let reset = from_server.recv().await;
        assert!(matches!(reset, Incoming::Reset(_)), "{reset:?}");
        let next = from_server.recv().await;
        assert!(matches!(next, Incoming::Message(_)), "{next:?}");
        to_server.send("to the last").await.unwrap();
        while !matches!(server.next_frame().await.unwrap(), Frame::Data { .. }) {}
    });
}

/// A relay between client and server corrupts the length of the second connection's greeting.
#[test]
fn greeting_damaged_in_transit_is_retried() {
    block_on(async {
        let mut stage = Stage::new(1 << 16, SessionOptions::default()).await;
        let endpoint = memory_endpoint();
        let mut near = endpoint.clone().listen().await.unwrap();
        let (cut, mut cuts) = tokio::sync::mpsc::channel::<()>(1);
        let framed = stage.framed.clone();
        let relay = tokio::spawn(async move {
            for time in 1.. {
                let mut client = ByHand::over(near.accept().await.unwrap());
                let mut server = ByHand::over(framed.connect().await.unwrap());
                if time == 2 {
                    assert!(matches!(client.next_frame().await, Some(Frame::Hello(_))));
                    // The length shows that this is not a greeting.
                    let _ = server.sender.send(vec![1; 1 << 15]).await;
                    let refusal = server.next_frame().await.unwrap();
                    let is_unasked =
                        matches!(refusal, Frame::Refused { refusal: Refusal::Unasked, .. });
                    assert!(is_unasked, "{refusal:?}");
                    client.send_frame(refusal).await;
                    continue;
                }
                loop {
                    let (from, to) = tokio::select! {
                        biased;
                        _ = cuts.recv() => break,
                        received = client.receiver.recv() => (received, &mut server.sender),
                        received = server.receiver.recv() => (received, &mut client.sender),
                    };
                    let Incoming::Message(message) = from else { break };
                    if to.send(message).await.is_err() {
                        break;
                    }
                }
            }
        });
        let options = (SessionOptions::default(), LineOptions::default());
        let connecting = Session::connect(std::sync::Arc::new(endpoint), options.0, options.1);
        let (client, server) = tokio::join!(connecting, stage.sessions.accept());
        let server = server.unwrap();
        let ((mut sender, _from_server), (_to_client, mut receiver)) =
            (client.unwrap().split(), server.split());
        sender.send("before").await.unwrap();
        assert!(matches!(receiver.recv().await, Incoming::Message(it) if it == "before"));
        cut.send(()).await.unwrap();
        sender.send("after").await.unwrap();
        loop {
            match receiver.recv().await {
                Incoming::Message(message) => break assert_eq!(message, "after"),
                Incoming::Reset(_) => {}
                other => panic!("{other:?}"),
            }
        }
        relay.abort();
    });
}

#[test]
fn unauthenticated_client_cannot_send_more_than_a_greeting() {
    const BUFFER: usize = 1 << 10;
    block_on(async {
        let mut stage = Stage::new(BUFFER, SessionOptions::default()).await;
        // There are more clients than may be in their handshake at once.
        let clients = (0..300).map(|_| {
            let framed = stage.framed.clone();
            tokio::spawn(async move {
                let line = framed.connect().await.unwrap();
                let control = line.control().clone();
                let (mut sender, mut receiver) = line.split();
                assert!(sender.send(vec![1; 1 << 20]).await.is_err());
                // The client gets a refusal, and then the end.
                assert!(matches!(receiver.recv().await, Incoming::Message(_)));
                assert!(matches!(receiver.recv().await, Incoming::End(_)));
                control.info().bytes_out
            })
        });
        for client in clients.collect::<Vec<_>>() {
            // The limit is the size of one read plus the connection's buffer.
            let taken = client.await.unwrap();
            assert!(taken <= (BUFFER + (4 << 10)) as u64, "{taken} bytes were read");
        }
        // After the handshake, the usual limit applies.
        let (mut client, _, server) = stage.begin().await;
        let (_sender, mut receiver) = server.split();
        let message = bytes::Bytes::from(vec![b'x'; 1 << 20]);
        client.send_frame(data(1, message.clone())).await;
        assert!(matches!(receiver.recv().await, Incoming::Message(it) if it == message));
    });
}

/// Sends this response to a client's greeting. Returns the results of the client's connect and of the send.
async fn greeted_with(
    answer: impl Into<bytes::Bytes> + Send,
) -> (Result<Session, TransportError>, Result<(), SendError>) {
    let framed = memory_endpoint();
    let mut acceptor = framed.clone().listen().await.unwrap();
    let (options, line) = (SessionOptions::default(), LineOptions::default());
    let connecting = Session::connect(std::sync::Arc::new(framed), options, line);
    let serving = async {
        let mut server = ByHand::over(acceptor.accept().await.unwrap());
        assert!(matches!(server.next_frame().await, Some(Frame::Hello(_))));
        let sent = server.sender.send(answer).await;
        (server, sent)
    };
    let (connected, (_server, sent)) = tokio::join!(connecting, serving);
    (connected, sent)
}

#[test]
fn client_refuses_an_oversized_response_to_its_greeting() {
    block_on(async {
        let (connected, sent) = greeted_with(vec![1; 1 << 20]).await;
        assert!(connected.is_err() && sent.is_err());
    });
}

#[test]
fn handshake_error_names_the_resumable_endpoint() {
    block_on(async {
        let (connected, _) = greeted_with("what?").await;
        let error = connected.err().unwrap();
        assert!(
            matches!(error.kind(), ErrorKind::Handshake { protocol: "session", .. }),
            "{error}"
        );
        assert!(error.endpoint().unwrap().is_resumable(), "{error}");
    });
}

#[test]
fn client_is_not_read_from_while_the_consumer_does_not_receive() {
    for (length, most) in [(0, 10_000), (1 << 20, 48)] {
        block_on(async {
            let mut stage = Stage::new(64 << 10, SessionOptions::default()).await;
            let (mut client, _, server) = stage.begin().await;
            let message = bytes::Bytes::from(vec![b'x'; length]);
            let mut sent = 0;
            let flood = async {
                while sent < most {
                    client.send_frame(data(sent + 1, message.clone())).await;
                    sent += 1;
                }
            };
            let held_up = timeout(PAUSE, flood).await;
            assert!(held_up.is_err() && sent > 0, "{sent} of {length} bytes");
            // Once the consumer receives, it gets everything.
            let (_sender, mut receiver) = server.split();
            for _ in 0..sent {
                assert!(matches!(receiver.recv().await, Incoming::Message(it) if it == message));
            }
        });
    }
}

#[test]
fn silent_clients_partial_greetings_and_resume_loops_leave_no_tasks() {
    block_on(async {
        let mut stage = Stage::new(64 << 10, SessionOptions::default()).await;
        let (first, mut welcome, server) = stage.begin().await;
        drop(first);
        let before = tasks();
        let clients: Vec<_> = (0..2_000)
            .map(|number| {
                let framed = stage.framed.clone();
                tokio::spawn(async move {
                    let (mut sender, mut receiver) = framed.connect().await.unwrap().split();
                    if number % 2 == 0 {
                        // Send a truncated frame.
                        let _ = sender.send(vec![1; 7]).await;
                    }
                    while let Incoming::Message(_) = receiver.recv().await {}
                })
            })
            .collect();
        for _ in 0..1_000 {
            let mut client = stage.by_hand().await;
            let mut greeting = hello(Some(&welcome));
            greeting.position = Position::default();
            welcome = client.greet(greeting).await.unwrap();
        }
        assert_eq!(welcome.epoch, 1_001);
        for client in clients {
            client.await.unwrap();
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(tasks(), before);
        drop((server, stage));
        sleep(PAUSE).await;
        assert_eq!(tasks(), 0);
    });
}

/// Runs a server that closes the first `cuts` connections after their greeting, and grants the next one.
/// Returns the client's result, and how many greetings the server received.
async fn connect_through_cuts(cuts: usize) -> (Result<Session, TransportError>, usize) {
    let config = MemoryConfig::new("cut");
    let framed =
        Framed::new(Memory::default(), config, LengthPrefix::default(), ChannelConfig::default());
    let framed = framed.unwrap();
    let mut acceptor = framed.clone().listen().await.unwrap();
    let mut asked = 0;
    let serving = async {
        loop {
            let mut client = ByHand::over(acceptor.accept().await.unwrap());
            assert!(matches!(client.next_frame().await, Some(Frame::Hello(_))));
            asked += 1;
            if asked > cuts {
                let (session, secret) = (SessionId([1; 16]), Secret([2; 16]));
                let position = Position::default();
                client
                    .send_frame(Frame::Welcome(Welcome { session, secret, epoch: 1, position }))
                    .await;
                std::future::pending::<()>().await;
            }
        }
    };
    let connecting =
        Session::connect(Arc::new(framed), SessionOptions::default(), LineOptions::default());
    let session = tokio::select! {
        session = connecting => session,
        () = serving => unreachable!(),
    };
    (session, asked)
}

#[test]
fn first_greeting_is_retried_a_limited_number_of_times() {
    block_on(async {
        for cuts in 0..=2 {
            let (session, asked) = connect_through_cuts(cuts).await;
            assert!(session.is_ok(), "{cuts}: {:?}", session.err());
            assert_eq!(asked, cuts + 1);
        }
        let (session, asked) = connect_through_cuts(3).await;
        let error = session.err().unwrap();
        assert!(matches!(error.kind(), ErrorKind::Closed(CloseReason::ByPeer)), "{error}");
        assert_eq!(asked, 3);
    });
}
