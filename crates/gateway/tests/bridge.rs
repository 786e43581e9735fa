//! A line between two channels without processes: how messages are passed on, and how the line ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use support::{ended, lines_pair, message};
use tieline_gateway::{Bridge, BridgeEnd, BridgeReport, bridge};
use tieline_proto::DEFAULT_MAX_MESSAGE;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, Channel, ChannelConfig, CloseReason, Endpoint, MemoryChannel, Options, Receiver,
    ReceiverExt, Registry, SendError, Sender, SenderExt, memory_pair,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};

/// A running line, with its two ends.
struct Line {
    client: MemoryChannel,
    server: MemoryChannel,
    stop: oneshot::Sender<()>,
    report: JoinHandle<BridgeReport>,
}

fn line() -> Line {
    let (client, near) = memory_pair();
    let (far, server) = memory_pair();
    let (stop, stopped) = oneshot::channel();
    let stopped = async {
        if stopped.await.is_err() {
            pending::<()>().await;
        }
    };
    let report = tokio::spawn(bridge(near.boxed(), far.boxed(), Bridge::default(), stopped));
    Line { client, server, stop, report }
}

#[tokio::test]
async fn messages_pass_both_ways_in_order_and_are_counted() {
    let Line { client, server, report, .. } = line();
    let (mut to_server, mut from_server) = client.split();
    let (mut to_client, mut from_client) = server.split();
    for number in 0..1000 {
        to_server.send(format!("up {number}")).await.unwrap();
        to_client.send(format!("down {number}")).await.unwrap();
        assert_eq!(message(&mut from_client).await, format!("up {number}"));
        assert_eq!(message(&mut from_server).await, format!("down {number}"));
    }
    drop((to_client, from_client));
    ended(&mut from_server).await;
    let report = report.await.unwrap();
    assert_eq!((report.to_far, report.to_near, report.lost), (1000, 1000, 0));
    assert!(matches!(report.end, BridgeEnd::Far(CloseReason::ByPeer)), "{}", report.end);
    assert!(report.end.is_clean());
}

#[tokio::test]
async fn end_of_input_is_passed_on_and_answers_still_arrive() {
    let Line { client, server, report, .. } = line();
    let (mut to_server, mut from_server) = client.split();
    let (mut to_client, mut from_client) = server.split();
    to_server.send("question").await.unwrap();
    to_server.close().await.unwrap();
    assert_eq!(message(&mut from_client).await, "question");
    ended(&mut from_client).await;
    let answering = tokio::spawn(async move {
        for number in 0..10_000 {
            to_client.send(format!("answer {number}")).await.unwrap();
        }
        to_client.close().await.unwrap();
    });
    for number in 0..10_000 {
        assert_eq!(message(&mut from_server).await, format!("answer {number}"));
    }
    answering.await.unwrap();
    let report = report.await.unwrap();
    assert_eq!((report.to_far, report.to_near), (1, 10_000));
    assert!(report.end.is_clean(), "{}", report.end);
}

#[tokio::test]
async fn sending_to_a_disconnected_client_ends_the_line() {
    let Line { client, server, report, .. } = line();
    drop(client);
    let (mut to_client, mut from_client) = server.split();
    ended(&mut from_client).await;
    while to_client.send("hello?").await.is_ok() {
        tokio::task::yield_now().await;
    }
    let report = report.await.unwrap();
    assert!(matches!(report.end, BridgeEnd::Near { .. }), "{}", report.end);
    assert!(!report.end.is_clean());
}

#[tokio::test(start_paused = true)]
async fn stop_ends_the_input_and_delivers_the_last_messages() {
    let Line { client, server, stop, report } = line();
    let (_to_server, mut from_server) = client.split();
    let (mut to_client, mut from_client) = server.split();
    stop.send(()).unwrap();
    ended(&mut from_client).await;
    to_client.send("goodbye").await.unwrap();
    to_client.close().await.unwrap();
    assert_eq!(message(&mut from_server).await, "goodbye");
    ended(&mut from_server).await;
    let report = report.await.unwrap();
    assert!(matches!(report.end, BridgeEnd::Stopped(_)) && report.end.is_clean());
    assert_eq!(report.to_near, 1);
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_the_grace_and_no_longer() {
    let Line { client, server, stop, report } = line();
    let begun = tokio::time::Instant::now();
    stop.send(()).unwrap();
    let report = report.await.unwrap();
    assert!(matches!(report.end, BridgeEnd::Stopped(_)), "{}", report.end);
    let grace = Bridge::default().grace;
    assert!((grace..grace + Duration::from_secs(1)).contains(&begun.elapsed()));
    drop((client, server));
}

#[tokio::test(start_paused = true)]
async fn stalled_client_does_not_delay_a_stop() {
    let patient = ChannelConfig { stall_timeout: Duration::from_secs(3600), ..Default::default() };
    let options = Options { channel: patient, ..Options::default() };
    let (registry, endpoint) = (Registry::new(), Endpoint::memory("listener"));
    let mut acceptor = registry.listen(&endpoint, &options).await.unwrap();
    let client = registry.connect(&endpoint, &options).await.unwrap();
    let near = acceptor.accept().await.unwrap();
    let (far, server) = memory_pair();
    let (stop, stopped) = oneshot::channel();
    let report = tokio::spawn(bridge(near, far.boxed(), Bridge::default(), async {
        stopped.await.unwrap();
    }));
    let (mut to_client, from_client) = server.split();
    let flood =
        tokio::spawn(async move { while to_client.send("x".repeat(1000)).await.is_ok() {} });
    // In paused time the clock moves only when nothing else can run, so all queues are full after this.
    tokio::time::sleep(Duration::from_secs(1)).await;

    let begun = tokio::time::Instant::now();
    stop.send(()).unwrap();
    let report = report.await.unwrap();
    assert!(matches!(report.end, BridgeEnd::Stopped(_)), "{}", report.end);
    assert!(begun.elapsed() < Duration::from_secs(11), "{:?}", begun.elapsed());
    drop((client, from_client));
    flood.await.unwrap();
}

/// A sender that takes six seconds to write each message.
struct Slow {
    sender: Box<dyn Sender>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl Slow {
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(writing) = &mut self.writing else { return Poll::Ready(()) };
        std::task::ready!(writing.as_mut().poll(cx));
        self.writing = None;
        Poll::Ready(())
    }
}

impl Sender for Slow {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.sender.poll_ready(cx)
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        self.writing = Some(Box::pin(sleep(Duration::from_secs(6))));
        self.sender.start_send(message)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        std::task::ready!(self.poll_written(cx));
        self.sender.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        std::task::ready!(self.poll_written(cx));
        self.sender.poll_close(cx)
    }
}

/// One grace period covers the last messages, the error responses and the close.
#[tokio::test(start_paused = true)]
async fn slow_client_delays_a_stop_for_one_grace() {
    let (client, near) = memory_pair();
    let (far, server) = memory_pair();
    let control = near.control().clone();
    let (sender, receiver) = near.boxed().split();
    let near = BoxChannel::from_parts(Box::new(Slow { sender, writing: None }), receiver, control);
    let (stop, stopped) = oneshot::channel();
    let options = Bridge { dialect: Some(Dialect::STRICT), ..Bridge::default() };
    let report = tokio::spawn(bridge(near, far.boxed(), options, async {
        stopped.await.unwrap();
    }));
    let (mut to_server, mut from_server) = client.split();
    let (mut to_client, mut from_client) = server.split();
    to_server.send(r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#).await.unwrap();
    message(&mut from_client).await;
    let begun = Instant::now();
    stop.send(()).unwrap();
    ended(&mut from_client).await;
    to_client.send("\"last words\"").await.unwrap();
    to_client.close().await.unwrap();
    assert_eq!(message(&mut from_server).await, "\"last words\"");
    report.await.unwrap();
    let grace = Bridge::default().grace;
    assert!(
        (grace..grace + Duration::from_secs(1)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn dropping_the_future_closes_both_sides_at_once() {
    let Line { client, server, report, .. } = line();
    report.abort();
    ended(&mut client.split().1).await;
    ended(&mut server.split().1).await;
}

#[tokio::test]
async fn only_a_message_that_the_other_framing_cannot_carry_is_lost() {
    let (client, near) = memory_pair();
    let (far, server) = lines_pair(DEFAULT_MAX_MESSAGE);
    let report = tokio::spawn(bridge(near.boxed(), far.boxed(), Bridge::default(), pending()));
    let (mut to_server, _from_server) = client.split();
    let (to_client, mut from_client) = server.split();
    for sent in ["one", "two\nlines", "", "three"] {
        to_server.send(sent).await.unwrap();
    }
    assert_eq!(message(&mut from_client).await, "one");
    assert_eq!(message(&mut from_client).await, "three");
    drop((to_client, from_client));
    let report = report.await.unwrap();
    assert_eq!((report.to_far, report.lost), (2, 2));
}

/// `lines_pair` has no half-close: both directions end together.
#[tokio::test(start_paused = true)]
async fn responses_are_waited_for_without_half_close() {
    for (asked, answers) in [
        (
            &[r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#][..],
            &[r#"{"jsonrpc":"2.0","id":1,"result":1}"#][..],
        ),
        (
            &[r#"[{"jsonrpc":"2.0","id":"x","method":"a"},{"jsonrpc":"2.0","id":2,"method":"a"}]"#],
            &[
                r#"{"jsonrpc":"2.0","method":"meanwhile"}"#,
                r#"{"jsonrpc":"2.0","id":2,"error":{"code":1,"message":"no"}}"#,
                r#"{"jsonrpc":"2.0","id":"x","result":1}"#,
            ],
        ),
    ] {
        let (mut to_server, mut from_server, mut to_client, mut from_client, report) =
            no_half_close();
        for asked in asked {
            to_server.send(*asked).await.unwrap();
        }
        to_server.close().await.unwrap();
        for asked in asked {
            assert_eq!(message(&mut from_client).await, *asked);
        }
        for answer in answers {
            // The line stays open no matter how long a response takes.
            let early = tokio::time::timeout(Duration::from_secs(100), from_client.recv()).await;
            assert!(early.is_err(), "{early:?}");
            to_client.send(*answer).await.unwrap();
            assert_eq!(message(&mut from_server).await, *answer);
        }
        ended(&mut from_client).await;
        drop((to_client, from_client));
        ended(&mut from_server).await;
        let report = report.await.unwrap();
        assert_eq!((report.to_near, report.lost), (answers.len() as u64, 0));
        assert!(report.end.is_clean(), "{}", report.end);
    }
}

/// Answers cannot be recognized, so the line ends after as many messages as were sent and a second of silence.
#[tokio::test(start_paused = true)]
async fn slow_answers_to_text_arrive_without_half_close() {
    let (mut to_server, mut from_server, mut to_client, mut from_client, _report) = no_half_close();
    for text in ["hello", "you"] {
        to_server.send(text).await.unwrap();
        assert_eq!(message(&mut from_client).await, text);
    }
    to_server.close().await.unwrap();
    let is_open = async |from_client: &mut _, millis| {
        let early = tokio::time::timeout(Duration::from_millis(millis), recv(from_client)).await;
        assert!(early.is_err(), "{early:?}");
    };
    // The server sends two slow answers, and then two more messages, each within a second.
    for (answer, after) in [("I", 4000), ("heard", 3000), ("you", 900), ("both", 900)] {
        is_open(&mut from_client, after).await;
        to_client.send(answer).await.unwrap();
        assert_eq!(message(&mut from_server).await, answer);
    }
    let begun = Instant::now();
    ended(&mut from_client).await;
    let silent = begun.elapsed();
    assert!((900..=1100).contains(&silent.as_millis()), "{silent:?}");
}

/// One program is never silent, one never answers, and one answers only the request. Text without an
/// answer is counted as lost.
#[tokio::test(start_paused = true)]
async fn wait_for_answers_to_text_is_bounded_without_half_close() {
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#;
    let response = r#"{"jsonrpc":"2.0","id":1,"result":1}"#;
    for (asked, every, answered_after, waited, lost) in [
        (&["hello"][..], Some(300), 0, 10_000, 0),
        (&["hello"], None, 0, 60_000, 1),
        (&["hello", request], None, 60, 120_000, 1),
    ] {
        let (mut to_server, _from_server, mut to_client, mut from_client, report) = no_half_close();
        for asked in asked {
            to_server.send(*asked).await.unwrap();
            assert_eq!(message(&mut from_client).await, *asked);
        }
        to_server.close().await.unwrap();
        let begun = Instant::now();
        let sending = tokio::spawn(async move {
            if answered_after > 0 {
                sleep(Duration::from_secs(answered_after)).await;
                to_client.send(response).await.unwrap();
            }
            while let Some(millis) = every {
                sleep(Duration::from_millis(millis)).await;
                if to_client.send("and more").await.is_err() {
                    return;
                }
            }
            pending::<()>().await;
        });
        ended(&mut from_client).await;
        let took = begun.elapsed().as_millis();
        assert!((waited..waited + 100).contains(&took), "{asked:?}: {took} ms");
        sending.abort();
        let _ = sending.await;
        drop(from_client);
        assert_eq!(report.await.unwrap().lost, lost, "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn answer_to_text_after_55_seconds_arrives_without_half_close() {
    let (mut to_server, mut from_server, mut to_client, mut from_client, report) = no_half_close();
    to_server.send("hello").await.unwrap();
    assert_eq!(message(&mut from_client).await, "hello");
    to_server.close().await.unwrap();
    sleep(Duration::from_secs(55)).await;
    to_client.send("at last").await.unwrap();
    assert_eq!(message(&mut from_server).await, "at last");
    ended(&mut from_client).await;
    drop((to_client, from_client));
    let report = report.await.unwrap();
    assert_eq!((report.to_near, report.lost), (1, 0), "{}", report.end);
}

/// As with half-close, `connect ws:… </dev/null` prints the first message from the server.
#[tokio::test(start_paused = true)]
async fn first_message_is_waited_for_without_half_close_and_without_input() {
    for sends in [true, false] {
        let (mut to_server, mut from_server, mut to_client, mut from_client, report) =
            no_half_close();
        to_server.close().await.unwrap();
        let begun = Instant::now();
        if sends {
            sleep(Duration::from_secs(9)).await;
            to_client.send("welcome").await.unwrap();
            assert_eq!(message(&mut from_server).await, "welcome");
        }
        ended(&mut from_client).await;
        assert_eq!(begun.elapsed().as_secs(), 10, "{sends}");
        drop((to_client, from_client));
        assert_eq!(report.await.unwrap().lost, 0);
    }
}

async fn recv(receiver: &mut impl Receiver) -> tieline_transport::Incoming {
    receiver.recv().await
}

#[tokio::test(start_paused = true)]
async fn notification_is_not_waited_for_without_half_close() {
    let (mut to_server, _from_server, _to_client, mut from_client, _report) = no_half_close();
    to_server.send(r#"{"jsonrpc":"2.0","method":"a"}"#).await.unwrap();
    to_server.close().await.unwrap();
    let begun = Instant::now();
    message(&mut from_client).await;
    ended(&mut from_client).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

/// Starts a bridge to a far side without half-close. Returns both ends of the line.
fn no_half_close()
-> (impl Sender, impl Receiver, impl Sender, impl Receiver, JoinHandle<BridgeReport>) {
    let (client, near) = memory_pair();
    let (far, server) = lines_pair(DEFAULT_MAX_MESSAGE);
    let report = tokio::spawn(bridge(near.boxed(), far.boxed(), Bridge::default(), pending()));
    let ((to_server, from_server), (to_client, from_client)) = (client.split(), server.split());
    (to_server, from_server, to_client, from_client, report)
}
