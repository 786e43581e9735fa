//! A client that does not take what it is sent: what becomes of it is a choice.
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

/// Far more than all queues hold between the two.
const MESSAGES: usize = 20_000;
/// Of JSON-RPC, one in so many is an answer.
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

/// The numbers that arrive when the client begins to read only after the server has said all.
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
    assert_eq!(report.to_near, numbers.len() as u64, "what it says it handed over");
    assert_eq!(report.lost as usize, MESSAGES - numbers.len(), "every loss is counted");
    (numbers, report)
}

#[tokio::test]
async fn by_default_the_far_side_waits_and_nothing_is_lost() {
    let (client, server, report) = line(Overflow::default(), None);
    let (_to_server, mut from_server) = client.split();
    let (mut to_client, _from_client) = server.split();
    let saying = tokio::spawn(async move {
        for number in 0..MESSAGES {
            to_client.send(text(number)).await.unwrap();
        }
    });
    for number in 0..MESSAGES {
        assert_eq!(support::message(&mut from_server).await, text(number));
    }
    saying.await.unwrap();
    drop((_to_server, from_server));
    assert_eq!(report.await.unwrap().lost, 0);
}

#[tokio::test]
async fn the_oldest_make_room_for_the_newest() {
    let (numbers, report) = arrived(Overflow::DropOldest).await;
    assert!(report.lost > 0);
    assert_eq!((numbers.first(), numbers.last()), (Some(&0), Some(&(MESSAGES - 1))));
    // What waited at the end is the end, without a gap.
    let tail = &numbers[numbers.len() - 256..];
    assert!(tail.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{tail:?}");
}

#[tokio::test]
async fn the_newest_are_dropped() {
    let (numbers, report) = arrived(Overflow::DropNewest).await;
    assert!(report.lost > 0);
    let head = &numbers[..256];
    assert!(head.iter().enumerate().all(|(place, number)| place == *number), "{head:?}");
}

#[tokio::test]
async fn where_the_dialect_is_known_answers_are_never_dropped() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let (client, server, report) = line(overflow, Some(Dialect::STRICT));
        let (_to_server, mut from_server) = client.split();
        let (mut to_client, _from_client) = server.split();
        let saying = tokio::spawn(async move {
            for number in 0..MESSAGES {
                to_client.send(text(number)).await.unwrap();
            }
            to_client.close().await.unwrap();
        });
        // It reads only when all has come to a stop behind the answers that may not be dropped, or
        // everything has been said.
        for _ in 0..MESSAGES {
            tokio::task::yield_now().await;
        }
        let (mut answers, mut all) = (0, 0);
        while let Incoming::Message(message) = from_server.recv().await {
            all += 1;
            answers += usize::from(message.starts_with(br#"{"jsonrpc":"2.0","id""#));
        }
        saying.await.unwrap();
        drop((_to_server, from_server, _from_client));
        let report = report.await.unwrap();
        assert_eq!(answers, MESSAGES / ANSWERS, "{overflow}");
        assert!(report.lost > 0, "{overflow}");
        assert_eq!(report.lost as usize, MESSAGES - all, "{overflow}");
    }
}

#[tokio::test]
async fn a_client_that_is_too_slow_is_disconnected() {
    let (client, server, report) = line(Overflow::Disconnect, None);
    let (_to_server, from_server) = client.split();
    let (mut to_client, mut from_client) = server.split();
    let mut said = 0;
    while to_client.send(text(said)).await.is_ok() {
        said += 1;
        assert!(said < MESSAGES, "nobody has stopped it");
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
fn each_has_a_name() {
    for overflow in Overflow::ALL {
        assert_eq!(overflow.to_string().parse(), Ok(overflow));
    }
    assert!("sometimes".parse::<Overflow>().unwrap_err().to_string().contains("drop-newest"));
}
