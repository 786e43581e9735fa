//! An EventSource that is cut off comes back by its last event's id: nothing is lost, nothing doubled, and where
//! that cannot be, it is said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use support::events::{Numbers, Stream, ask, post, shears};
use support::{TOKEN, config, end, message, serve, status_of};
use tieline_http::{ServerConfig, Web};
use tieline_link::{LineOptions, Session, SessionOptions, SessionReceiver, SessionSender, Sessions};
use tieline_transport::{Acceptor, Channel, CloseReason, DynAcceptor, SenderExt};

struct Served {
    web: Web,
    sessions: Sessions,
    port: u16,
}

async fn sessions_with(config: ServerConfig) -> Served {
    let grace = config.limits.event_grace;
    let served = serve(config).await;
    let acceptor: Box<dyn DynAcceptor> = Box::new(served.resumable.unwrap());
    let options = SessionOptions { grace, ..SessionOptions::default() };
    let sessions = Sessions::new(acceptor, options, LineOptions::default());
    Served { web: served.web, sessions, port: served.port }
}

async fn sessions() -> Served {
    sessions_with(ServerConfig { hosts: vec!["127.0.0.1".into()], ..config() }).await
}

async fn pair(served: &mut Served) -> (Stream, SessionSender, SessionReceiver) {
    let opening = Stream::open(served.port, "");
    let (stream, session) = tokio::join!(opening, Acceptor::accept(&mut served.sessions));
    let (sender, receiver) = Session::split(session.unwrap());
    (stream.unwrap(), sender, receiver)
}

async fn again(port: u16, id: &str) -> Result<Stream, String> {
    Stream::open(port, &format!("Last-Event-ID: {id}\r\n")).await
}

fn name_of(stream: &Stream) -> &str {
    &stream.uri["/sse?session=".len()..]
}

#[tokio::test]
async fn every_event_has_the_number_of_its_message_and_what_is_missed_comes_again() {
    let mut served = sessions().await;
    let (mut stream, mut sender, mut receiver) = pair(&mut served).await;
    let name = name_of(&stream).to_owned();
    assert_eq!(stream.first, format!("{name}.0"));
    for number in 1..=5 {
        sender.send(format!("{number}")).await.unwrap();
        let event = stream.event().await.unwrap();
        assert_eq!((event.id, &*event.data), (format!("{name}.{number}"), format!("{number}").as_bytes()));
    }
    assert_eq!(status_of(&stream.post("before", "").await), 202);
    assert_eq!(message(&mut receiver).await, "before");
    drop(stream);
    sender.send("6").await.unwrap();
    // The last one that was received is what it says, whatever was written.
    let mut stream = again(served.port, &format!("{name}.3")).await.unwrap();
    assert_eq!((name_of(&stream), &*stream.first), (&*name, &*format!("{name}.3")));
    for number in 4..=6 {
        assert_eq!(stream.message().await, format!("{number}"));
    }
    assert_eq!(status_of(&stream.post("behind", "").await), 202);
    assert_eq!(message(&mut receiver).await, "behind");
    let counts = served.web.counts();
    assert_eq!((counts.event_streams, counts.posts), (2, 2));
}

#[tokio::test]
async fn a_thousand_cuts_in_mid_event_lose_and_double_nothing() {
    const CUTS: u64 = 1000;
    let seed = 0x5eed_0001;
    let mut served = sessions().await;
    let cuts = Arc::new(AtomicU64::new(0));
    let (counted, mut numbers) = (cuts.clone(), Numbers(seed));
    let port = shears(served.port, move || {
        match counted.fetch_add(1, Relaxed) {
            // Before there was an event with an id, nobody could come back.
            0 => Some(1_000),
            1..CUTS => Some(1 + numbers.below(4_000) as usize),
            _ => None,
        }
    })
    .await;
    let done = Arc::new(AtomicU64::new(0));
    let is_done = done.clone();
    let serving = async {
        let session = Acceptor::accept(&mut served.sessions).await.unwrap();
        let (mut sender, mut receiver) = session.split();
        let down = async {
            let mut number = 0_u64;
            while is_done.load(Relaxed) == 0 {
                sender.send(format!("down {number}")).await.unwrap();
                number += 1;
            }
            sender.send("last").await.unwrap();
            number
        };
        let up = async {
            for number in 0_u64.. {
                let came = message(&mut receiver).await;
                if came == "last" {
                    return number;
                }
                assert_eq!(came, format!("up {number}"));
            }
            0
        };
        tokio::join!(down, up)
    };
    // What was received last, its number, and where to post.
    let (seen, mut seeing) = tokio::sync::watch::channel((String::new(), 0_u64, String::new()));
    let posting = async {
        for number in 0_u64.. {
            // A message for every fourth event.
            let (last, _, uri) = {
                let known = seeing.wait_for(|(_, count, _)| *count >= 4 * (number + 1));
                known.await.unwrap().clone()
            };
            let is_last = cuts.load(Relaxed) > CUTS;
            let body = if is_last { "last".into() } else { format!("up {number}") };
            let header = format!("Tieline-Sequence: {}\r\nLast-Event-ID: {last}\r\n", number + 1);
            // As often as it takes; the answer is cut off, too, and nobody knows then whether it was taken.
            while status_of(&post(port, &uri, &body, &header).await) != 202 {}
            if is_last {
                done.store(1, Relaxed);
                return number;
            }
        }
        0
    };
    let reading = async {
        let (mut last, mut expected) = (String::new(), 0_u64);
        loop {
            let more = match last.is_empty() {
                true => String::new(),
                false => format!("Last-Event-ID: {last}\r\n"),
            };
            let mut stream = match Stream::open(port, &more).await {
                Ok(stream) => stream,
                Err(head) => {
                    assert!(matches!(status_of(&head), 0 | 200), "{head}");
                    continue;
                }
            };
            last = stream.first.clone();
            while let Some(event) = stream.event().await {
                last = event.id;
                if event.data == "last" {
                    return expected;
                }
                assert_eq!(event.data, format!("down {expected}"), "seed {seed}");
                expected += 1;
                seen.send_replace((last.clone(), expected, stream.uri.clone()));
            }
        }
    };
    let client = async { tokio::join!(reading, posting) };
    let ((sent, taken), (received, posted)) = tokio::join!(serving, client);
    println!("{sent} down, {posted} up, {} connections", cuts.load(Relaxed));
    assert_eq!((received, posted), (sent, taken), "seed {seed}");
    assert!(cuts.load(Relaxed) > CUTS);
}
