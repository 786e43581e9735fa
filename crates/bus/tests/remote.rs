//! Remote clients of an embedded broker, over a Unix socket in a resumable session.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod conformance;

use std::path::Path;
use std::sync::{Arc, Mutex};

use conformance::{Scene, conformance, pattern, publish, subject, subscribe, text};
use tieline_bus::{
    Broker, Bus, ClientLimits, End, Error, Event, Message, Overflow, RemoteBus, RequestOptions,
    Rights, SubscribeOptions, Violation,
};
use tieline_link::{SessionOptions, connector, listen};
use tieline_testkit::wait::{block_on, within};
use tieline_transport::{
    BoxChannel, Channel, Endpoint, Incoming, Options, ReceiverExt, Registry, SenderExt, memory_pair,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// A broker on a socket, and a proxy to it whose connections can be cut.
struct OverUnix {
    directory: tempfile::TempDir,
    broker: Broker,
    pairs: Arc<Mutex<JoinSet<()>>>,
    _tasks: JoinSet<()>,
}

impl OverUnix {
    fn endpoint(directory: &Path, name: &str) -> Endpoint {
        Endpoint::unix(directory.join(name)).resumable()
    }

    async fn connect(&self, name: &str) -> RemoteBus {
        let endpoint = Self::endpoint(self.directory.path(), name);
        let (registry, options) = (Registry::new(), Options::default());
        let connector = connector(&registry, &endpoint, &options, SessionOptions::default());
        RemoteBus::connect(connector.unwrap().connect().await.unwrap()).await.unwrap()
    }

    /// Breaks all connections through the proxy.
    fn cut(&self) {
        self.pairs.lock().unwrap().abort_all();
    }
}

impl Scene for OverUnix {
    type Client = RemoteBus;

    const MAX_SUBSCRIPTIONS: usize = 1024;
    const MAX_MESSAGE: usize = 8 << 20;

    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let broker = Broker::default();
        let endpoint = Self::endpoint(directory.path(), "broker");
        let (registry, options) = (Registry::new(), Options::default());
        let listening = listen(&registry, &endpoint, &options, SessionOptions::default());
        let mut acceptor = listening.await.unwrap();
        let mut tasks = JoinSet::new();
        let serving = broker.clone();
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                let channel = acceptor.accept().await.unwrap();
                let broker = serving.clone();
                clients.spawn(async move {
                    let _ = broker.serve(channel, Rights::user(), ClientLimits::default()).await;
                });
            }
        });
        let proxy = UnixListener::bind(directory.path().join("proxy")).unwrap();
        let target = directory.path().join("broker");
        let pairs = Arc::new(Mutex::new(JoinSet::new()));
        let connections = pairs.clone();
        tasks.spawn(async move {
            loop {
                let (mut client, _) = proxy.accept().await.unwrap();
                let target = target.clone();
                connections.lock().unwrap().spawn(async move {
                    if let Ok(mut server) = UnixStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { directory, broker, pairs, _tasks: tasks }
    }

    async fn client(&self) -> RemoteBus {
        self.connect("broker").await
    }
}

conformance!(OverUnix);

#[test]
fn client_that_is_cut_off_loses_nothing() {
    block_on(async {
        let scene = OverUnix::start().await;
        let (publisher, subscriber) = (scene.connect("proxy").await, scene.connect("proxy").await);
        let options = SubscribeOptions { overflow: Overflow::Block, ..SubscribeOptions::default() };
        let mut events = subscriber.subscribe(&pattern("e"), options).await.unwrap();
        let mut work =
            subscriber.subscribe(&pattern("w"), SubscribeOptions::group("w")).await.unwrap();
        let publishing = async {
            for number in 0..300 {
                publish(&publisher, "e", number).await;
                if number % 10 == 5 {
                    scene.cut();
                }
            }
        };
        let requesting = async {
            let to = subject("w");
            for number in 0..100 {
                let question = Message::new(number.to_string());
                let answer = publisher.request(&to, question, RequestOptions::default());
                assert_eq!(answer.await.unwrap().payload, format!("{number}!"));
            }
        };
        let reading = async {
            for number in 0..300 {
                assert_eq!(text(&mut events).await, number.to_string());
            }
        };
        let answering = async {
            // Each request arrives once.
            for number in 0..100 {
                let request = conformance::message(&mut work).await;
                assert_eq!(*request.payload(), number.to_string());
                conformance::answer(&subscriber, &request, &format!("{number}!")).await;
            }
        };
        tokio::join!(publishing, requesting, reading, answering);
    });
}

#[test]
fn dropped_client_ends_its_subscriptions_and_requests() {
    block_on(async {
        let scene = OverUnix::start().await;
        let (one, two) = (scene.client().await, scene.client().await);
        let mut of_one = subscribe(&one, "a").await;
        let mut log = subscribe(&two, "log").await;
        let asked = one.clone();
        let request = tokio::spawn(async move {
            asked.request(&subject("log"), "?".into(), RequestOptions::default()).await
        });
        assert_eq!(text(&mut log).await, "?");
        request.abort();
        assert!(matches!(within("a cancellation", log.next()).await, Event::Cancel { .. }));
        drop(one);
        let _ = request.await;
        assert_eq!(within("the end", of_one.next()).await, Event::End(End::Closed));
        while scene.broker.stats().subscriptions > 1 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn closing_the_broker_ends_remote_subscriptions() {
    block_on(async {
        let scene = OverUnix::start().await;
        let client = scene.client().await;
        let mut events = subscribe(&client, "a").await;
        publish(&client, "a", "last").await;
        scene.broker.close();
        assert_eq!(text(&mut events).await, "last");
        assert_eq!(within("the end", events.next()).await, Event::End(End::Closed));
        assert_eq!(client.publish(&subject("a"), "".into()).await, Err(Error::Closed));
    });
}

/// Serves a client whose frames the test writes.
fn by_hand(broker: &Broker) -> (BoxChannel, tokio::task::JoinHandle<Result<String, Violation>>) {
    let (ours, theirs) = memory_pair();
    let broker = broker.clone();
    let task = tokio::spawn(async move {
        let rights = Rights::user();
        let ended = broker.serve(theirs, rights, ClientLimits::default()).await;
        ended.map(|reason| reason.to_string())
    });
    (ours.boxed(), task)
}

const HELLO: &[u8] = b"\x01\0\0\0\0\0\0\0\x01TBUS";

fn frame(kind: u8, id: u64, rest: &[u8]) -> Vec<u8> {
    [&[kind], &id.to_be_bytes()[..], rest].concat()
}

#[test]
fn hostile_frames_end_only_their_own_connection_with_the_reason() {
    block_on(async {
        let broker = Broker::default();
        let mut events = subscribe(&broker, "fine").await;
        let subscription = [&b"\0\x01a\0\0"[..], &[0; 7], &[1], &[0; 7], &[1], &[1]].concat();
        let hello = HELLO.to_vec();
        let cases: Vec<(Vec<Vec<u8>>, &str)> = vec![
            (vec![b"GET / HTTP/1.1".to_vec()], "the first frame is not a greeting"),
            (vec![b"".to_vec()], "the first frame is not a greeting"),
            (vec![frame(0x01, 1, b"NOPE")], "the first frame is not a greeting"),
            (vec![frame(0x01, 9, b"TBUS")], "the other side has version 9 of the bus protocol"),
            (vec![frame(0x04, 1, b"")], "the first frame is not a greeting"),
            (vec![hello.clone(), hello.clone()], "the first frame is not a greeting"),
            (vec![hello.clone(), frame(0x99, 1, b"")], "unknown frame type 0x99"),
            (vec![hello.clone(), frame(0x02, 1, b"\xff\xffa")], "a frame is too short"),
            (vec![hello.clone(), frame(0x02, 1, b"\0\x01*\0\0\0")], "token 1 is a wildcard"),
            (vec![hello.clone(), frame(0x02, 1, b"\0\x01\xff\0\0\0")], "is not UTF-8"),
            (vec![hello.clone(), frame(0x02, 1, b"\0\x01a\0\0\x01\0\x01:\0\0")], "a header's name"),
            (vec![hello.clone(), frame(0x04, 1, b"x")], "a frame is 1 bytes too long"),
            (vec![hello.clone(), frame(0x05, 1, b"\0\x03a.>")], "a frame is too short"),
            (
                vec![hello.clone(), frame(0x05, 1, &subscription), frame(0x05, 1, &subscription)],
                "the number 1 is in use",
            ),
            (
                vec![hello, frame(0x05, 1, &subscription), frame(0x07, 1, &[1; 16])],
                "the window of subscription 1 was not respected",
            ),
        ];
        for (frames, expected) in cases {
            let (channel, served) = by_hand(&broker);
            let (mut sender, mut receiver) = channel.split();
            for frame in frames {
                sender.send(frame).await.unwrap();
            }
            let bye = loop {
                match within("a farewell", receiver.recv()).await {
                    Incoming::Message(frame) if frame[0] == 0x1a => break frame,
                    Incoming::Message(_) => {}
                    other => panic!("{expected}: {other:?}"),
                }
            };
            let bye = String::from_utf8_lossy(&bye[11..]).into_owned();
            assert!(bye.contains(expected), "{bye}");
            assert!(matches!(within("the end", receiver.recv()).await, Incoming::End(_)));
            drop((sender, receiver));
            let violation = within("the outcome", served).await.unwrap().unwrap_err();
            assert_eq!(violation.to_string(), bye);
            publish(&broker, "fine", "yes").await;
            assert_eq!(text(&mut events).await, "yes");
        }
        assert_eq!(broker.stats().subscriptions, 1);
    });
}

#[test]
fn operations_without_end_are_refused() {
    block_on(async {
        let broker = Broker::default();
        let options = SubscribeOptions { overflow: Overflow::Block, ..SubscribeOptions::default() };
        let _never_read = broker.subscribe(&pattern("w"), options).await.unwrap();
        let (channel, served) = by_hand(&broker);
        let (mut sender, mut receiver) = channel.split();
        sender.send(HELLO).await.unwrap();
        let reading = tokio::spawn(async move {
            loop {
                if let Incoming::End(_) = receiver.recv().await {
                    return;
                }
            }
        });
        let mut id = 0;
        while !reading.is_finished() {
            // This fails once the connection has ended.
            let _ = sender.send(frame(0x02, id, b"\0\x01w\0\0\0")).await;
            id += 1;
        }
        assert!(id > 2048, "{id}");
        drop(sender);
        within("the reader", reading).await.unwrap();
        let violation = within("the outcome", served).await.unwrap().unwrap_err();
        assert_eq!(violation, Violation::TooMuchInFlight);
    });
}

#[test]
fn client_of_something_else_fails_with_the_reason() {
    block_on(async {
        let (ours, theirs) = memory_pair();
        let (mut sender, mut receiver) = theirs.split();
        let connecting = tokio::spawn(RemoteBus::connect(ours));
        within("the greeting", receiver.recv()).await;
        sender.send("hello?").await.unwrap();
        let error = within("the error", connecting).await.unwrap().err().unwrap();
        let text = "the connection to the broker has ended: the broker has broken the protocol: a frame is \
                    too short";
        assert_eq!(error.to_string(), text);
    });
}
