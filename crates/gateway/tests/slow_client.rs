//! The overflow policies for a client that does not read fast enough.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::pending;

use support::ended;
use tieline_gateway::{Bridge, BridgeEnd, BridgeReport, Overflow, bridge};
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    Channel, CloseReason, Incoming, MemoryChannel, ReceiverExt, SenderExt, memory_pair,
};
use tokio::task::JoinHandle;

/// The number of messages: far more than all queues on the way hold.
const MESSAGES: usize = 20_000;
/// Every hundredth message is a response, and the others are notifications.
const ANSWERS: usize = 100;

fn line(overflow: Overflow, dialect: Option<Dialect>) -> (MemoryChannel, MemoryChannel, Report) {
    let (client, near) = memory_pair();
    let (far, server) = memory_pair();
    let options = Bridge { overflow, dialect, ..Bridge::default() };
    let report = tokio::spawn(bridge(near.boxed(), far.boxed(), options, pending()));
    (client, server, report)
}

type Report = JoinHandle<BridgeReport>;

fn text(number: usize) -> String {
    match number % ANSWERS {
        0 => format!(r#"{{"jsonrpc":"2.0","id":{number},"result":{number}}}"#),
        _ => format!(r#"{{"jsonrpc":"2.0","method":"tick","params":[{number}]}}"#),
    }
}

/// Returns the numbers that arrive if the client starts to read after the server has sent all messages.
async fn arrived(overflow: Overflow) -> (Vec<usize>, BridgeReport) {
    let (client, server, report) = line(overflow, None);
    let (_to_server, mut from_server) = client.split();
    let (mut to_client, _from_client) = server.split();
    for number in 0..MESSAGES {
        to_client.send(text(number)).await.unwrap();
    }
    to_client.close().await.unwrap();
    let mut numbers = Vec::new();
    loop {
        match from_server.recv().await {
            Incoming::Message(message) => {
                let message = String::from_utf8(message.to_vec()).unwrap();
                let digits: String = message
                    .rsplit([':', '['])
                    .next()
                    .unwrap()
                    .chars()
                    .filter(char::is_ascii_digit)
                    .collect();
                let number = digits.parse().unwrap();
                assert_eq!(message, text(number));
                numbers.push(number);
            }
            Incoming::End(_) => break,
            other => panic!("{other:?}"),
        }
    }
    drop((to_client, _from_client));
    let report = report.await.unwrap();
    assert!(numbers.is_sorted() && numbers.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(report.to_near, numbers.len() as u64, "to_near counts delivered messages");
    assert_eq!(report.lost as usize, MESSAGES - numbers.len(), "every loss is counted");
    (numbers, report)
}

#[tokio::test]
async fn far_side_waits_by_default_and_nothing_is_lost() {
    let (client, server, report) = line(Overflow::default(), None);
    let (_to_server, mut from_server) = client.split();
    let (mut to_client, _from_client) = server.split();
    let sending = tokio::spawn(async move {
        for number in 0..MESSAGES {
            to_client.send(text(number)).await.unwrap();
        }
    });
    for number in 0..MESSAGES {
        assert_eq!(support::message(&mut from_server).await, text(number));
    }
    sending.await.unwrap();
    drop((_to_server, from_server));
    assert_eq!(report.await.unwrap().lost, 0);
}

#[tokio::test]
async fn drop_oldest_delivers_the_last_messages() {
    let (numbers, report) = arrived(Overflow::DropOldest).await;
    assert!(report.lost > 0);
    assert_eq!((numbers.first(), numbers.last()), (Some(&0), Some(&(MESSAGES - 1))));
    // The queue at the end holds the last messages, without a gap.
    let tail = &numbers[numbers.len() - 256..];
    assert!(tail.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{tail:?}");
}

#[tokio::test]
async fn drop_newest_delivers_the_first_messages() {
    let (numbers, report) = arrived(Overflow::DropNewest).await;
    assert!(report.lost > 0);
    let head = &numbers[..256];
    assert!(head.iter().enumerate().all(|(place, number)| place == *number), "{head:?}");
}

#[tokio::test]
async fn responses_are_never_dropped_if_the_dialect_is_known() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let (client, server, report) = line(overflow, Some(Dialect::STRICT));
        let (_to_server, mut from_server) = client.split();
        let (mut to_client, _from_client) = server.split();
        let sending = tokio::spawn(async move {
            for number in 0..MESSAGES {
                to_client.send(text(number)).await.unwrap();
            }
            to_client.close().await.unwrap();
        });
        // The client starts to read once the server waits because the queue is full of responses, or has
        // sent everything.
        for _ in 0..MESSAGES {
            tokio::task::yield_now().await;
        }
        let (mut answers, mut all) = (0, 0);
        while let Incoming::Message(message) = from_server.recv().await {
            all += 1;
            answers += usize::from(message.starts_with(br#"{"jsonrpc":"2.0","id""#));
        }
        sending.await.unwrap();
        drop((_to_server, from_server, _from_client));
        let report = report.await.unwrap();
        assert_eq!(answers, MESSAGES / ANSWERS, "{overflow}");
        assert!(report.lost > 0, "{overflow}");
        assert_eq!(report.lost as usize, MESSAGES - all, "{overflow}");
    }
}

#[tokio::test]
async fn disconnect_ends_the_line_of_a_slow_client() {
    let (client, server, report) = line(Overflow::Disconnect, None);
    let (_to_server, from_server) = client.split();
    let (mut to_client, mut from_client) = server.split();
    let mut sent = 0;
    while to_client.send(text(sent)).await.is_ok() {
        sent += 1;
        assert!(sent < MESSAGES, "the line did not end");
    }
    ended(&mut from_client).await;
    drop((to_client, from_client));
    let report = report.await.unwrap();
    let BridgeEnd::Near { near: CloseReason::Overrun, .. } = &report.end else {
        panic!("{}", report.end)
    };
    assert!(!report.end.is_clean());
    assert!(report.lost > 0);
    drop(from_server);
}

#[test]
fn names_of_policies_parse() {
    for overflow in Overflow::ALL {
        assert_eq!(overflow.to_string().parse(), Ok(overflow));
    }
    assert!("sometimes".parse::<Overflow>().unwrap_err().to_string().contains("drop-newest"));
}
