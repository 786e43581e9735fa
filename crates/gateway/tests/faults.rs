//! If a client breaks its framing, its earlier requests are answered before its line ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::message;
use tieline_gateway::{Bridge, BridgeEnd, BridgeReport, bridge};
use tieline_proto::jsonrpc::Dialect;
use tieline_proto::{ByteSize, LengthPrefix};
use tieline_testkit::duplex;
use tieline_transport::{
    Capabilities, Channel, CloseReason, Incoming, MemoryChannel, Receiver, ReceiverExt, SenderExt,
    TransportKind, memory_pair,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const LIMIT: ByteSize = ByteSize::new(1000);

/// The length prefix of a message beyond the limit. The bytes after it cannot be split into messages.
const BROKEN: &[u8] = &[0xff, 0xff, 0xff, 0xff];

struct Test {
    client: DuplexStream,
    program: MemoryChannel,
    report: JoinHandle<BridgeReport>,
    stop: oneshot::Sender<()>,
}

fn start(dialect: Option<Dialect>) -> Test {
    let (client, end) = tokio::io::duplex(64 * 1024);
    let capabilities = Capabilities { half_close: true, ..Capabilities::default() };
    let framing = LengthPrefix::new(LIMIT);
    let near = duplex::framed(end, framing, TransportKind::MEMORY, capabilities);
    let (far, program) = memory_pair();
    let options = Bridge { dialect, ..Bridge::default() };
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let report = tokio::spawn(bridge(near.boxed(), far.boxed(), options, stopped));
    Test { client, program, report, stop }
}

fn framed(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

/// Reads the next message.
async fn next(client: &mut DuplexStream) -> String {
    let mut bytes = vec![0; client.read_u32().await.unwrap().try_into().unwrap()];
    client.read_exact(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn assert_closed(client: &mut DuplexStream) {
    assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
}

fn is_fault(report: &BridgeReport) -> bool {
    matches!(&report.end, BridgeEnd::Near { near: CloseReason::Protocol(_), .. })
}

async fn end_of_input(receiver: &mut impl Receiver) {
    let incoming = receiver.recv().await;
    assert!(matches!(incoming, Incoming::End(_)), "{incoming:?}");
}

#[tokio::test]
async fn answers_to_earlier_messages_arrive_before_the_end() {
    let Test { mut client, program, report, stop: _stop } = start(None);
    let (mut sender, mut receiver) = program.split();
    client.write_all(&[framed("one"), framed("two"), BROKEN.to_vec()].concat()).await.unwrap();
    // The program receives the end of input and answers after that.
    assert_eq!(message(&mut receiver).await, "one");
    assert_eq!(message(&mut receiver).await, "two");
    end_of_input(&mut receiver).await;
    for answer in ["ONE", "TWO"] {
        sender.send(answer).await.unwrap();
        assert_eq!(next(&mut client).await, answer);
    }
    drop((sender, receiver));
    assert_closed(&mut client).await;
    let report = report.await.unwrap();
    assert!(is_fault(&report), "{}", report.end);
    assert_eq!((report.to_far, report.to_near, report.lost), (2, 2, 0));
}

#[tokio::test]
async fn client_without_earlier_messages_is_closed_at_once() {
    let Test { mut client, program, report, stop: _stop } = start(None);
    let (_sender, _receiver) = program.split();
    client.write_all(BROKEN).await.unwrap();
    assert_closed(&mut client).await;
    assert!(is_fault(&report.await.unwrap()));
}

/// The test runs in virtual time.
#[tokio::test(start_paused = true)]
async fn wait_for_answers_ends_after_the_grace_period() {
    let Test { mut client, program, report, stop: _stop } = start(None);
    let (mut sender, mut receiver) = program.split();
    let begun = Instant::now();
    client.write_all(&[framed("one"), BROKEN.to_vec()].concat()).await.unwrap();
    assert_eq!(message(&mut receiver).await, "one");
    end_of_input(&mut receiver).await;
    // The program never stops sending.
    let sending = async {
        while sender.send("more").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let receiving = async {
        let mut received = 0;
        while client.read_u32().await.is_ok() {
            client.read_u32().await.unwrap();
            received += 1;
        }
        received
    };
    let ((), received) = tokio::join!(sending, receiving);
    assert!((9..=11).contains(&received), "{received}");
    let took = begun.elapsed();
    assert!((10..=12).contains(&took.as_secs()), "{took:?}");
    assert!(is_fault(&report.await.unwrap()));
}

/// The test runs in virtual time, which must not advance.
#[tokio::test(start_paused = true)]
async fn line_ends_after_the_last_response_if_the_dialect_is_known() {
    let Test { mut client, program, report, stop: _stop } = start(Some(Dialect::STRICT));
    let (mut sender, mut receiver) = program.split();
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#;
    client.write_all(&[framed(request), BROKEN.to_vec()].concat()).await.unwrap();
    let begun = Instant::now();
    assert_eq!(message(&mut receiver).await, request);
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":2}"#;
    sender.send(answer).await.unwrap();
    assert_eq!(next(&mut client).await, answer);
    // The error about the framing is last.
    let refusal = next(&mut client).await;
    assert!(refusal.contains(r#""id":null"#) && refusal.contains("-32600"), "{refusal}");
    assert_closed(&mut client).await;
    assert!(is_fault(&report.await.unwrap()));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn broken_client_does_not_delay_a_stop() {
    let Test { mut client, program, report, stop } = start(None);
    let (_sender, mut receiver) = program.split();
    client.write_all(&[framed("one"), BROKEN.to_vec()].concat()).await.unwrap();
    assert_eq!(message(&mut receiver).await, "one");
    end_of_input(&mut receiver).await;
    stop.send(()).unwrap();
    drop((_sender, receiver));
    assert_closed(&mut client).await;
    let report = report.await.unwrap();
    assert!(matches!(report.end, BridgeEnd::Stopped(_)) || is_fault(&report), "{}", report.end);
}

/// The program does not read, so messages sent before the fault are never delivered.
#[tokio::test(start_paused = true)]
async fn stalled_program_does_not_hold_a_broken_client_open() {
    let Test { mut client, program, report, stop: _stop } = start(None);
    let (_sender, receiver) = program.split();
    let begun = Instant::now();
    let many: Bytes = framed(&"x".repeat(900)).repeat(40).into();
    client.write_all(&[&many[..], BROKEN].concat()).await.unwrap();
    assert_closed(&mut client).await;
    let took = begun.elapsed();
    assert!(took.as_secs() <= 21, "{took:?}");
    assert!(is_fault(&report.await.unwrap()));
    drop(receiver);
}
