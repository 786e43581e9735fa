//! Sessions over real sockets whose connections are cut.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tieline_link::{
    Client, ClientOptions, LineOptions, LineState, Session, SessionOptions, connector, listen,
};
use tieline_proto::{FrameError, FramingKind};
use tieline_testkit::wait::{block_on, poll_once};
use tieline_transport::{
    BoxChannel, Channel, CloseReason, DynAcceptor, Endpoint, ErrorKind, Incoming, LostBy, Options,
    Receiver, ReceiverExt, Registry, SendError, Sender, SenderExt, TransportError,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// A proxy to a socket, whose connections can be cut.
struct Proxy {
    path: PathBuf,
    connections: Arc<Mutex<JoinSet<()>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    fn to(target: &Path, at: &Path) -> Self {
        let listener = UnixListener::bind(at).unwrap();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let (target, pairs) = (target.to_owned(), connections.clone());
        let task = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let target = target.clone();
                pairs.lock().unwrap().spawn(async move {
                    if let Ok(mut server) = UnixStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { path: at.to_owned(), connections, task }
    }

    fn cut(&self) {
        self.cutter()();
    }

    fn cutter(&self) -> impl Fn() + Clone + Send + 'static {
        let connections = self.connections.clone();
        move || connections.lock().unwrap().abort_all()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Stage {
    _directory: tempfile::TempDir,
    proxy: Proxy,
    socket: PathBuf,
    acceptor: Box<dyn DynAcceptor>,
}

fn resumable(path: &Path) -> Endpoint {
    Endpoint::unix(path).resumable()
}

impl Stage {
    async fn new(options: SessionOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (socket, proxy_socket) = (directory.path().join("s"), directory.path().join("p"));
        let acceptor = serve(&socket, options).await;
        let proxy = Proxy::to(&socket, &proxy_socket);
        Self { _directory: directory, proxy, socket, acceptor }
    }

    async fn connect(&self, options: SessionOptions) -> BoxChannel {
        let endpoint = resumable(&self.proxy.path);
        let connector = connector(&Registry::new(), &endpoint, &Options::default(), options);
        connector.unwrap().connect().await.unwrap()
    }

    async fn pair(&mut self, options: SessionOptions) -> (BoxChannel, BoxChannel) {
        let client = self.connect(options).await;
        (client, self.acceptor.accept().await.unwrap())
    }
}

async fn serve(socket: &Path, options: SessionOptions) -> Box<dyn DynAcceptor> {
    let endpoint = resumable(socket);
    listen(&Registry::new(), &endpoint, &Options::default(), options).await.unwrap()
}

async fn next(receiver: &mut impl Receiver) -> String {
    match receiver.recv().await {
        Incoming::Message(message) => String::from_utf8(message.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn send_numbers(mut sender: Box<dyn Sender>, count: u64) -> u64 {
    for number in 0..count {
        sender.feed(number.to_string()).await.unwrap();
        if number % 7 == 0 {
            sender.flush().await.unwrap();
        }
    }
    sender.close().await.unwrap();
    // Dropping the last half would end the session before the peer has received everything.
    poll_fn(|cx| sender.poll_gone(cx)).await;
    count
}

/// Receives numbers until the end, which must be clean, and returns their count. Calls `at` after every
/// `every`th message.
async fn take_numbers(mut receiver: impl Receiver, every: u64, at: impl Fn(u64)) -> u64 {
    let mut count = 0;
    loop {
        match receiver.recv().await {
            Incoming::Message(message) => {
                assert_eq!(message, count.to_string());
                count += 1;
                if count % every == 0 {
                    at(count);
                }
            }
            Incoming::End(reason) => {
                assert!(reason.is_clean(), "{reason}");
                return count;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn messages_arrive_once_and_in_order_both_ways_despite_cuts() {
    const COUNT: u64 = 50_000;
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let (client, server) = stage.pair(SessionOptions::default()).await;
        let control = client.control().clone();
        let ((to_server, from_server), (to_client, from_client)) = (client.split(), server.split());
        let cut = stage.proxy.cutter();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { send_numbers(to_server, COUNT).await });
        tasks.spawn(async move { send_numbers(to_client, COUNT).await });
        // Do not cut during the last messages: an end that has received everything does not resume to
        // acknowledge again, so the other end would wait for the grace period.
        let cut = move |count| {
            if count + 2048 < COUNT {
                cut();
            }
        };
        tasks.spawn(take_numbers(from_server, 997, cut.clone()));
        tasks.spawn(take_numbers(from_client, 1_009, cut));
        while let Some(done) = tasks.join_next().await {
            assert_eq!(done.unwrap(), COUNT);
        }
        let info = control.info();
        assert_eq!((info.messages_in, info.messages_out), (COUNT, COUNT));
    });
}

#[test]
fn messages_sent_during_an_outage_arrive_after_it() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let (client, server) = stage.pair(SessionOptions::default()).await;
        let ((mut to_server, _from_server), (mut to_client, mut from_client)) =
            (client.split(), server.split());
        stage.proxy.cut();
        for word in ["one", "two"] {
            to_server.send(word).await.unwrap();
            to_client.send(word).await.unwrap();
        }
        assert_eq!(next(&mut from_client).await, "one");
        stage.proxy.cut();
        assert_eq!(next(&mut from_client).await, "two");
        to_server.close().await.unwrap();
        assert!(matches!(from_client.recv().await, Incoming::End(CloseReason::ByPeer)));
    });
}

#[test]
fn full_replay_buffer_blocks_the_sender_and_evicts_nothing() {
    block_on(async {
        let mut few = SessionOptions::default();
        few.session.replay_messages = 4;
        let mut stage = Stage::new(SessionOptions::default()).await;
        let (client, server) = stage.pair(few).await;
        let ((mut to_server, _from_server), (_to_client, mut from_client)) =
            (client.split(), server.split());
        for number in 0..4 {
            to_server.send(number.to_string()).await.unwrap();
        }
        {
            let mut fifth = Box::pin(to_server.send("4"));
            let waker = std::task::Waker::noop();
            let mut cx = std::task::Context::from_waker(waker);
            assert!(fifth.as_mut().poll(&mut cx).is_pending());
            for number in 0..4 {
                assert_eq!(next(&mut from_client).await, number.to_string());
            }
            // Requesting the next message acknowledges the previous ones.
            let (sent, fifth) = tokio::join!(fifth, next(&mut from_client));
            sent.unwrap();
            assert_eq!(fifth, "4");
        }
    });
}

#[test]
fn session_unknown_to_the_server_is_reported_as_lost_and_another_begins() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let (client, server) = stage.pair(SessionOptions::default()).await;
        let (mut to_server, mut from_server) = client.split();
        let (to_client, mut from_client) = server.split();
        to_server.send("received").await.unwrap();
        assert_eq!(next(&mut from_client).await, "received");
        // The server crashes without a farewell.
        stage.proxy.cut();
        stage.proxy.task.abort();
        drop((to_client, from_client));
        drop(std::fs::remove_file(&stage.proxy.path));
        to_server.send("not received").await.unwrap();
        drop(stage.acceptor);
        let mut acceptor = serve(&stage.socket, SessionOptions::default()).await;
        let proxy = Proxy::to(&stage.socket, &stage.proxy.path);

        let accepted = acceptor.accept();
        let (reset, server) = tokio::join!(from_server.recv(), accepted);
        let Incoming::Reset(reset) = reset else { panic!("{reset:?}") };
        let CloseReason::SessionLost(lost) = &reset.cause else { panic!("{}", reset.cause) };
        assert!(matches!(lost.cause, LostBy::Refused(..)), "{lost}");
        assert_eq!(lost.delivered.sent, 2);
        assert_eq!(reset.lost, 2 - lost.delivered.acknowledged);
        let flushed = to_server.flush().await;
        assert!(matches!(flushed, Err(SendError::Lost(lost)) if lost == reset.lost), "{flushed:?}");
        to_server.send("again").await.unwrap();
        let (_to_client, mut from_client) = server.unwrap().split();
        assert_eq!(next(&mut from_client).await, "again");
        drop(proxy);
    });
}

#[test]
fn session_expires_if_its_client_does_not_reconnect() {
    block_on(async {
        let short =
            SessionOptions { grace: Duration::from_millis(50), ..SessionOptions::default() };
        let mut stage = Stage::new(short).await;
        let (client, server) = stage.pair(SessionOptions::default()).await;
        stage.proxy.task.abort();
        drop(std::fs::remove_file(&stage.proxy.path));
        stage.proxy.cut();
        let (mut to_client, mut from_client) = server.split();
        let _ = to_client.send("not received").await;
        let Incoming::End(CloseReason::SessionLost(lost)) = from_client.recv().await else {
            panic!("no end")
        };
        assert!(matches!(lost.cause, LostBy::Expired(_)), "{lost}");
        assert_eq!((lost.delivered.acknowledged, lost.delivered.sent), (0, 1));
        drop(client);
    });
}

#[test]
fn dropping_both_halves_ends_the_session_for_the_peer_at_once() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let (client, server) = stage.pair(SessionOptions::default()).await;
        let (mut to_server, from_server) = client.split();
        to_server.send("last words").await.unwrap();
        drop((to_server, from_server));
        let (_to_client, mut from_client) = server.split();
        assert_eq!(next(&mut from_client).await, "last words");
        assert!(matches!(from_client.recv().await, Incoming::End(CloseReason::ByPeer)));
    });
}

/// Tries to begin a session at this socket.
async fn refused(socket: &Path) -> TransportError {
    let quick = SessionOptions {
        handshake_timeout: Duration::from_millis(100),
        ..SessionOptions::default()
    };
    let endpoint = resumable(socket);
    let connector = connector(&Registry::new(), &endpoint, &Options::default(), quick).unwrap();
    let error = connector.connect().await.err().unwrap();
    assert!(error.hint().unwrap().contains("does not support sessions"), "{error:?}");
    error
}

#[test]
fn connecting_to_a_plain_listener_fails_with_a_hint() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        for framing in FramingKind::ALL {
            let endpoint = Endpoint::unix(&socket).with_framing(framing);
            let mut plain = Registry::new().listen(&endpoint, &Options::default()).await.unwrap();
            let listener = tokio::spawn(async move {
                let (mut sender, mut receiver) = plain.accept().await.unwrap().split();
                let Incoming::End(reason) = receiver.recv().await else { panic!("a message") };
                sender.close().await.unwrap();
                reason
            });
            let error = refused(&socket).await;
            assert!(error.to_string().ends_with("the other side has no sessions"), "{error}");
            let reason = listener.await.unwrap();
            let expected = CloseReason::Protocol(FrameError::UnexpectedGreeting);
            assert_eq!(reason.to_string(), expected.to_string());
        }
    });
}

#[test]
fn connecting_to_a_silent_listener_fails_with_a_hint() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let _silent = UnixListener::bind(&socket).unwrap();
        let error = refused(&socket).await;
        assert!(matches!(error.kind(), ErrorKind::TimedOut(_)), "{error}");
    });
}

#[test]
fn message_above_the_peers_limit_ends_the_session_with_its_reason() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let mut small = Options::default();
        small.channel.max_message = tieline_proto::ByteSize::kib(1);
        drop(stage.acceptor);
        let endpoint = resumable(&stage.socket);
        let options = SessionOptions::default();
        stage.acceptor = listen(&Registry::new(), &endpoint, &small, options).await.unwrap();
        let (client, server) = stage.pair(SessionOptions::default()).await;
        let ((mut to_server, mut from_server), (_to_client, mut from_client)) =
            (client.split(), server.split());
        to_server.send(vec![b'x'; 1024]).await.unwrap();
        assert_eq!(next(&mut from_client).await.len(), 1024);
        to_server.send(vec![b'x'; 1025]).await.unwrap();
        let ends = tokio::join!(from_client.recv(), from_server.recv());
        let (Incoming::End(CloseReason::SessionLost(here)), Incoming::End(there)) = ends else {
            panic!("no ends")
        };
        assert!(matches!(&here.cause, LostBy::Line(CloseReason::Protocol(_))), "{here}");
        assert!(there.to_string().contains("ended the session"), "{there}");
    });
}

#[test]
fn messages_of_a_session_closed_and_dropped_in_an_outage_arrive_after_it() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let (client, server) = stage.pair(SessionOptions::default()).await;
        let ((to_server, mut from_server), (mut to_client, from_client)) =
            (client.split(), server.split());
        stage.proxy.cut();
        for number in 0..100 {
            to_client.send(number.to_string()).await.unwrap();
        }
        to_client.close().await.unwrap();
        drop((to_client, from_client));
        for number in 0..100 {
            assert_eq!(next(&mut from_server).await, number.to_string());
        }
        assert!(matches!(from_server.recv().await, Incoming::End(CloseReason::ByPeer)));
        drop(to_server);
    });
}

#[test]
fn dropped_session_with_messages_in_flight_is_not_a_clean_end() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let (client, server) = stage.pair(SessionOptions::default()).await;
        let control = server.control().clone();
        let (mut to_client, mut from_client) = server.split();
        drop(client);
        // The message is not received, whether the end is noticed before or after it is sent.
        let sent = to_client.send("not received").await;
        assert!(matches!(from_client.recv().await, Incoming::End(_)));
        poll_fn(|cx| to_client.poll_gone(cx)).await;
        let reason = control.close_reason().unwrap();
        match (&sent, &reason) {
            (Err(SendError::Closed(_)), CloseReason::ByPeer) => {}
            (Ok(()), CloseReason::SessionLost(lost)) => {
                assert!(matches!(&lost.cause, LostBy::Farewell(text) if text.is_empty()), "{lost}");
                assert_eq!((lost.delivered.acknowledged, lost.delivered.sent), (0, 1));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn settle_waits_until_the_peer_has_acknowledged_everything() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let mut acceptor = serve(&socket, SessionOptions::default()).await;
        let dialer = Registry::new().connector(&resumable(&socket).carrier(), &Options::default());
        let options = SessionOptions::default();
        let client = Session::connect(dialer.unwrap().into(), options, LineOptions::default());
        let (client, server) = tokio::join!(client, acceptor.accept());
        let (mut to_server, _from_server) = client.unwrap().split();
        let (_to_client, mut from_client) = server.unwrap().split();
        to_server.send("one").await.unwrap();
        {
            let mut settled = Box::pin(to_server.settle());
            assert!(poll_once(settled.as_mut()).await.is_none());
            // The server's end has the message, but its consumer has not received it.
            while !from_client.holds_part() {
                tokio::task::yield_now().await;
            }
            assert!(poll_once(settled.as_mut()).await.is_none());
            assert_eq!(next(&mut from_client).await, "one");
            assert!(matches!(from_client.recv().await, Incoming::End(CloseReason::ByPeer)));
            settled.await.unwrap();
        }
        assert!(to_server.send("two").await.is_err());
    });
}

#[test]
fn client_of_a_resumable_endpoint_uses_a_session() {
    block_on(async {
        let mut stage = Stage::new(SessionOptions::default()).await;
        let endpoint = resumable(&stage.proxy.path);
        let (options, usual) = (Options::default(), ClientOptions::default());
        let client = Client::new(&Registry::new(), &endpoint, &options, usual).unwrap();
        let (messages, server) = tokio::join!(client.connect(), stage.acceptor.accept());
        let mut messages = messages.unwrap();
        let (mut to_client, mut from_client) = server.unwrap().split();
        client.send("before").await.unwrap();
        stage.proxy.cut();
        client.send("after").await.unwrap();
        to_client.send("received").await.unwrap();
        assert_eq!(next(&mut messages).await, "received");
        for word in ["before", "after"] {
            assert_eq!(next(&mut from_client).await, word);
        }
        assert!(matches!(client.state(), LineState::Connected { epoch: 1 }), "{}", client.state());
    });
}
