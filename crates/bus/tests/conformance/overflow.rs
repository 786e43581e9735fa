use std::sync::Arc;
use std::time::Duration;

use tieline_bus::{
    Bus, End, Error, Event, Message, Overflow, QueueLimits, RequestOptions, SubscribeOptions,
    Subscription,
};
use tieline_testkit::wait::{poll_once, within};

use super::messages::both;
use super::{Scene, answer, message, pattern, publish, subject, subscribe, text};

async fn short(bus: &impl Bus, to: &str, overflow: Overflow) -> Subscription {
    let queue = QueueLimits { messages: 4, ..QueueLimits::default() };
    let options = SubscribeOptions { queue, overflow, ..SubscribeOptions::default() };
    bus.subscribe(&pattern(to), options).await.unwrap()
}

/// Reads numbers and gaps until all numbers below `count` are accounted for. Returns how many were lost.
async fn account(subscription: &mut Subscription, count: u64) -> u64 {
    let (mut next, mut lost) = (0, 0);
    while next < count {
        match within("an event", subscription.next()).await {
            Event::Message(it) => {
                assert_eq!(*it.payload(), next.to_string());
                next += 1;
            }
            Event::Gap { lost: more } => {
                assert!(more > 0);
                next += more;
                lost += more;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(next, count);
    lost
}

pub(crate) async fn losses_are_reported_where_they_happened(scene: impl Scene) {
    let (one, two) = (scene.client().await, scene.client().await);
    for (overflow, to) in [(Overflow::DropOldest, "oldest"), (Overflow::DropNewest, "newest")] {
        let mut slow = short(&one, to, overflow).await;
        for number in 0..500 {
            publish(&two, to, number).await;
        }
        // What drops the newest messages has lost them at the end, and reports them with the next event.
        assert!(account(&mut slow, 500).await > 400, "{overflow:?}");
    }
}

pub(crate) async fn blocking_subscription_loses_nothing(scene: impl Scene) {
    let (one, two) = (scene.client().await, Arc::new(scene.client().await));
    let mut slow = short(&one, "b", Overflow::Block).await;
    let mut other = subscribe(&one, "other").await;
    let publishing = async {
        for number in 0..500 {
            publish(&*two, "b", number).await;
        }
    };
    let reading = async {
        // While this publisher waits, the same clients exchange other messages.
        publish(&*two, "other", "now").await;
        assert_eq!(text(&mut other).await, "now");
        assert_eq!(account(&mut slow, 500).await, 0);
    };
    both(publishing, reading).await;
}

pub(crate) async fn slow_subscription_can_be_ended(scene: impl Scene) {
    let (one, two) = (scene.client().await, scene.client().await);
    let mut slow = short(&one, "d", Overflow::Disconnect).await;
    for number in 0..500 {
        publish(&two, "d", number).await;
    }
    let mut next = 0;
    loop {
        match within("an event", slow.next()).await {
            Event::Message(it) => {
                assert_eq!(*it.payload(), next.to_string());
                next += 1;
            }
            Event::Gap { lost } => {
                assert_eq!(lost, 1);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((4..=40).contains(&next), "{next}");
    assert_eq!(within("the end", slow.next()).await, Event::End(End::TooSlow));
    assert_eq!(slow.next().await, Event::End(End::TooSlow));
}

pub(crate) async fn request_waits_for_room_until_its_deadline(scene: impl Scene) {
    let (bus, worker) = (Arc::new(scene.client().await), scene.client().await);
    let mut work = short(&worker, "w", Overflow::DropNewest).await;
    for number in 0..50 {
        publish(&*bus, "w", number).await;
    }
    let after = Duration::from_millis(300);
    let options = RequestOptions::timeout(after);
    let outcome = bus.request(&subject("w"), "early".into(), options).await;
    assert_eq!(outcome, Err(Error::Timeout { subject: "w".into(), after }));

    let call = tokio::spawn({
        let bus = bus.clone();
        async move { bus.request(&subject("w"), "late".into(), RequestOptions::default()).await }
    });
    let request = loop {
        match within("the request", work.next()).await {
            Event::Message(it) if it.payload() == "late" => break it,
            // Between processes, the first request may have found room later.
            Event::Message(_) | Event::Gap { .. } | Event::Cancel { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    answer(&worker, &request, "done").await;
    assert_eq!(within("the answer", call).await.unwrap().unwrap().payload, "done");
}

/// Proves that one stopped subscriber among 100 costs the others nothing.
pub(crate) async fn stopped_subscription_does_not_disturb_others(scene: impl Scene) {
    let (one, two) = (scene.client().await, scene.client().await);
    let mut stopped = subscribe(&one, "e").await;
    let mut readers = Vec::new();
    for _ in 0..99 {
        readers.push(subscribe(&one, "e").await);
    }
    for number in 0..1000 {
        two.publish(&subject("e"), Message::new(number.to_string())).await.unwrap();
        for reader in &mut readers {
            assert_eq!(text(reader).await, number.to_string());
        }
    }
    for reader in &mut readers {
        assert!(poll_once(reader.next()).await.is_none());
    }
    let lost = account(&mut stopped, 1000).await;
    // What is kept is bounded: 256 messages in a queue, and as many on their way.
    assert!((488..=744).contains(&lost), "{lost}");
    publish(&two, "e", "last").await;
    assert_eq!(message(&mut stopped).await.payload(), "last");
}
