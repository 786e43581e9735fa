//! Tests that an EventSource that is cut off resumes after its last event: no message is lost or
//! duplicated, and if that is impossible, the response says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use support::events::{Numbers, Stream, ask, post, shears};
use support::resume::{again, name_of, pair, sessions, sessions_with};
use support::{TOKEN, config, end, message, status_of};
use tieline_http::ServerConfig;
use tieline_testkit::clock::FastClock;
use tieline_transport::{Acceptor, Channel, CloseReason, SenderExt};

#[tokio::test]
async fn events_have_message_numbers_and_missed_ones_are_replayed() {
    let mut served = sessions().await;
    let (mut stream, mut sender, mut receiver) = pair(&mut served).await;
    let name = name_of(&stream).to_owned();
    assert_eq!(stream.first, format!("{name}.0"));
    for number in 1..=5 {
        sender.send(format!("{number}")).await.unwrap();
        let event = stream.event().await.unwrap();
        assert_eq!(
            (event.id, &*event.data),
            (format!("{name}.{number}"), format!("{number}").as_bytes())
        );
    }
    assert_eq!(status_of(&stream.post("before", "").await), 202);
    assert_eq!(message(&mut receiver).await, "before");
    drop(stream);
    sender.send("6").await.unwrap();
    // The server trusts the id that the client sends, even if later events were written.
    let mut stream = again(served.port, &format!("{name}.3")).await.unwrap();
    assert_eq!((name_of(&stream), &*stream.first), (&*name, &*format!("{name}.3")));
    for number in 4..=6 {
        assert_eq!(stream.message().await, format!("{number}"));
    }
    assert_eq!(status_of(&stream.post("after", "").await), 202);
    assert_eq!(message(&mut receiver).await, "after");
    let counts = served.web.counts();
    assert_eq!((counts.event_streams, counts.posts), (2, 2));
}

#[tokio::test]
async fn a_thousand_cuts_in_mid_event_lose_and_duplicate_nothing() {
    const STREAMS: u64 = 1000;
    let seed = 0x5eed_0001;
    let mut served = sessions().await;
    let (mut is_first, mut numbers) = (true, Numbers(seed));
    let port = shears(served.port, move || {
        // A client cannot resume before it has received an event with an id.
        let least = if std::mem::take(&mut is_first) { 1_000 } else { 1 };
        Some(least + numbers.below(4_000) as usize)
    })
    .await;
    let web = &served.web;
    let done = Arc::new(AtomicU64::new(0));
    let is_done = done.clone();
    let serving = async {
        let session = Acceptor::accept(&mut served.sessions).await.unwrap();
        let (mut sender, mut receiver) = session.split();
        // The client has confirmed an event before the first message, so messages that it lacks are
        // always kept.
        assert_eq!(message(&mut receiver).await, "up 0");
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
            for number in 1_u64.. {
                let came = message(&mut receiver).await;
                if came == "last" {
                    return number;
                }
                assert_eq!(came, format!("up {number}"));
            }
            0
        };
        let counts = tokio::join!(down, up);
        // The session is kept until its client has received everything.
        (counts, sender, receiver)
    };
    // The id of the last event, the number of messages received, and the URL for POST requests.
    let (seen, mut seeing) = tokio::sync::watch::channel((String::new(), 0_u64, String::new()));
    let posting = async {
        for number in 0_u64.. {
            // Sends one message for every fourth event.
            let (last, _, uri) = {
                let known =
                    seeing.wait_for(|(last, count, _)| !last.is_empty() && *count >= 4 * number);
                known.await.unwrap().clone()
            };
            let is_last = web.counts().event_streams > STREAMS;
            let body = if is_last { "last".into() } else { format!("up {number}") };
            let header = format!("Tieline-Sequence: {}\r\nLast-Event-ID: {last}\r\n", number + 1);
            // Repeats the POST until it succeeds: a client whose response was cut off does not know the
            // outcome.
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
            seen.send_replace((last.clone(), expected, stream.uri.clone()));
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
    let (((sent, taken), ..), (received, posted)) = tokio::join!(serving, client);
    println!("{sent} down, {posted} up, {:?}", web.counts());
    assert_eq!((received, posted), (sent, taken), "seed {seed}");
}

#[tokio::test]
async fn the_newer_of_two_streams_takes_over_the_session() {
    let mut served = sessions().await;
    let (mut older, mut sender, _receiver) = pair(&mut served).await;
    sender.send("1").await.unwrap();
    let id = older.event().await.unwrap().id;
    let mut newer = again(served.port, &id).await.unwrap();
    older.end().await;
    sender.send("2").await.unwrap();
    assert_eq!(newer.message().await, "2");
}

#[tokio::test]
async fn a_program_that_ends_sends_a_last_event_after_which_resuming_is_answered_with_204() {
    let mut served = sessions().await;
    let (mut stream, mut sender, receiver) = pair(&mut served).await;
    let name = name_of(&stream).to_owned();
    for text in ["1", "2"] {
        sender.send(text).await.unwrap();
    }
    sender.close().await.unwrap();
    drop((sender, receiver));
    for text in ["1", "2"] {
        assert_eq!(stream.message().await, text);
    }
    let last = stream.event().await.unwrap();
    assert_eq!((&*last.event, &*last.data), ("end", &br#"{"code":1000,"reason":""}"#[..]));
    assert_eq!(last.id, format!("{name}.3"));
    // The session accepts no more messages, and an id that was never sent is invalid.
    assert_eq!(status_of(&stream.post("4", "").await), 410);
    let never = again(served.port, &format!("{name}.{}", u64::MAX)).await;
    assert_eq!(status_of(&never.err().unwrap()), 400);
    stream.end().await;
    // A client that was cut off before the end still receives the missing events.
    let mut stream = again(served.port, &format!("{name}.1")).await.unwrap();
    assert_eq!(stream.message().await, "2");
    assert_eq!(stream.event().await.unwrap().event, "end");
    stream.end().await;
    for _ in 0..2 {
        let Err(over) = again(served.port, &format!("{name}.3")).await else {
            panic!("the stream was resumed")
        };
        assert_eq!(status_of(&over), 204, "{over}");
    }
    let answer = post(served.port, &format!("/sse?session={name}"), "x", "").await;
    assert_eq!(status_of(&answer), 410);
}

/// The session protocol itself does not report a shutdown.
#[tokio::test]
async fn the_end_of_a_program_during_a_shutdown_has_code_1001() {
    let mut served = sessions().await;
    served.web.set_ready(false);
    let (mut stream, mut sender, receiver) = pair(&mut served).await;
    sender.close().await.unwrap();
    drop((sender, receiver));
    let last = stream.event().await.unwrap();
    assert_eq!(last.event, "end");
    assert!(last.data.starts_with(br#"{"code":1001,"#), "{last:?}");
}

#[tokio::test]
async fn a_broken_session_reports_messages_that_are_no_longer_kept() {
    let mut served = sessions().await;
    let (mut stream, mut sender, receiver) = pair(&mut served).await;
    let name = name_of(&stream).to_owned();
    for text in ["1", "2", "3"] {
        sender.send(text).await.unwrap();
        assert_eq!(stream.message().await, text);
    }
    // The session breaks off without an end, so none of its messages is kept.
    drop((sender, receiver));
    assert_eq!(stream.event().await.unwrap().event, "end");
    stream.end().await;
    for (last, status) in [(3, 204), (2, 410)] {
        let Err(over) = again(served.port, &format!("{name}.{last}")).await else { panic!() };
        assert_eq!(status_of(&over), status);
    }
}

#[tokio::test]
async fn a_client_can_end_its_session_with_or_without_a_stream() {
    let mut served = sessions().await;
    let more = format!("Authorization: Bearer {TOKEN}\r\n");
    for is_open in [true, false] {
        let (mut stream, mut sender, mut receiver) = pair(&mut served).await;
        sender.send("1").await.unwrap();
        let id = stream.event().await.unwrap().id;
        let uri = stream.uri.clone();
        assert_eq!(status_of(&stream.post("last", "").await), 202);
        if !is_open {
            drop(stream);
            let (head, _) = ask("DELETE", served.port, &uri, "", &more).await;
            assert_eq!(status_of(&head), 204);
        } else {
            let (head, _) = ask("DELETE", served.port, &uri, "", &more).await;
            assert_eq!(status_of(&head), 204);
            assert_eq!(stream.event().await.unwrap().event, "end");
            stream.end().await;
        }
        assert_eq!(message(&mut receiver).await, "last");
        let reason = end(&mut receiver).await;
        assert!(!matches!(reason, CloseReason::ByUs), "{reason}");
        assert!(matches!(again(served.port, &id).await, Err(head) if status_of(&head) == 204));
    }
}

#[tokio::test]
async fn a_session_of_another_client_cannot_be_resumed() {
    let mut served = sessions().await;
    let (mut stream, mut sender, _receiver) = pair(&mut served).await;
    sender.send("1").await.unwrap();
    let id = stream.event().await.unwrap().id;
    let url = served.web.one_time_url().unwrap().unwrap();
    let key = url.split("?key=").nth(1).unwrap();
    let (head, _) = ask("GET", served.port, &format!("/?key={key}"), "", "").await;
    let cookie = head.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap();
    let more = format!("Cookie: {cookie}\r\nLast-Event-ID: {id}\r\n");
    let Err(refused) = Stream::open_as(served.port, &more).await else {
        panic!("the stream was resumed")
    };
    assert_eq!(status_of(&refused), 404);
    for id in ["x", ".", "x.1", "\u{e4}.1", &id.replace('.', ":"), &format!("{}.1", "A".repeat(22))]
    {
        let Err(refused) = again(served.port, id).await else { panic!("{id}") };
        assert!(matches!(status_of(&refused), 404 | 400), "{id}");
    }
    sender.send("2").await.unwrap();
    assert_eq!(stream.message().await, "2", "the original stream was not affected");
}

#[tokio::test]
async fn a_post_waits_for_its_stream_for_a_limited_time() {
    let mut config = ServerConfig { hosts: vec!["127.0.0.1".into()], ..config() };
    config.limits.take_wait = Duration::from_millis(200);
    let mut served = sessions_with(config).await;
    let (mut stream, mut sender, mut receiver) = pair(&mut served).await;
    let (name, uri) = (name_of(&stream).to_owned(), stream.uri.clone());
    sender.send("1").await.unwrap();
    assert_eq!(stream.message().await, "1");
    drop(stream);
    let header = "Tieline-Sequence: 1\r\n";
    // The server does not detect the disconnection at once. Messages that it accepts until then arrive.
    let mut accepted = 0;
    while status_of(&post(served.port, &uri, "early", "").await) == 202 {
        accepted += 1;
    }
    let answer = post(served.port, &uri, "x", header).await;
    assert_eq!(status_of(&answer), 503);
    assert!(answer.contains("retry-after: 1\r\n"));
    let _stream = again(served.port, &format!("{name}.1")).await.unwrap();
    assert_eq!(status_of(&post(served.port, &uri, "x", header).await), 202);
    for _ in 0..accepted {
        assert_eq!(message(&mut receiver).await, "early");
    }
    assert_eq!(message(&mut receiver).await, "x");
}

#[tokio::test]
async fn a_session_is_forgotten_after_its_grace_period() {
    let _clock = FastClock::start();
    let mut config = config();
    config.limits.event_grace = Duration::from_secs(30);
    let mut served = sessions_with(config).await;
    let (mut stream, mut sender, mut receiver) = pair(&mut served).await;
    let name = name_of(&stream).to_owned();
    sender.send("1").await.unwrap();
    assert_eq!(stream.message().await, "1");
    drop(stream);
    let reason = end(&mut receiver).await;
    assert!(reason.to_string().contains("the session was not resumed within 30s"), "{reason}");
    // For any last id, the missing messages are unknown.
    for last in [0, 1, 2] {
        let Err(over) = again(served.port, &format!("{name}.{last}")).await else { panic!() };
        assert_eq!(status_of(&over), 410, "{over}");
    }
}
