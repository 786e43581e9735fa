use std::future::Future;

use tieline_bus::{Bus, Message, SubscribeOptions};
use tieline_testkit::wait::{poll_once, within};

use super::{Scene, message, pattern, publish, subject, subscribe, text};

pub(crate) async fn messages_reach_the_subscriptions_that_match(scene: impl Scene) {
    let (one, two) = (scene.client().await, scene.client().await);
    let mut exact = subscribe(&one, "a.b").await;
    let mut any = subscribe(&two, "a.*").await;
    let mut rest = subscribe(&two, "a.>").await;
    let mut other = subscribe(&one, "b.>").await;
    for (to, payload) in [("a.b", "1"), ("a.c", "2"), ("a.b.c", "3"), ("b.b", "4"), ("A.b", "5")] {
        publish(&one, to, payload).await;
    }
    assert_eq!((text(&mut exact).await, text(&mut other).await), ("1".into(), "4".into()));
    for expected in ["1", "2"] {
        assert_eq!(text(&mut any).await, expected);
    }
    for (to, payload) in [("a.b", "1"), ("a.c", "2"), ("a.b.c", "3")] {
        let received = message(&mut rest).await;
        assert_eq!(
            (received.subject().as_str(), &received.payload()[..]),
            (to, payload.as_bytes())
        );
    }
    for nothing in [&mut exact, &mut any, &mut rest, &mut other] {
        assert!(poll_once(nothing.next()).await.is_none());
    }
}

pub(crate) async fn messages_of_a_publisher_arrive_in_order(scene: impl Scene) {
    let (one, two) = (scene.client().await, scene.client().await);
    let mut subscription = one
        .subscribe(
            &pattern("n.>"),
            SubscribeOptions { overflow: tieline_bus::Overflow::Block, ..Default::default() },
        )
        .await
        .unwrap();
    let publishing = async {
        for number in 0..2000 {
            publish(&two, &format!("n.{}", number % 7), number).await;
        }
    };
    let reading = async {
        for number in 0..2000 {
            assert_eq!(text(&mut subscription).await, number.to_string());
        }
    };
    both(publishing, reading).await;
}

pub(crate) async fn payloads_and_headers_arrive_unchanged(scene: impl Scene) {
    let (one, two) = (scene.client().await, scene.client().await);
    let mut subscription = subscribe(&one, "p").await;
    let large: Vec<u8> = (0..1 << 20).map(|it: u32| (it % 251) as u8).collect();
    for payload in [Vec::new(), vec![0, b'\r', b'\n', 0xff], large] {
        let mut sent = Message::new(payload).with_header("name", "größe ").unwrap();
        sent = sent.with_header("name", "").unwrap();
        sent.reply = Some(subject("somewhere.else"));
        two.publish(&subject("p"), sent.clone()).await.unwrap();
        assert_eq!(message(&mut subscription).await.message(), &sent);
    }
}

pub(crate) async fn dropped_wait_loses_nothing(scene: impl Scene) {
    let bus = scene.client().await;
    let mut subscription = subscribe(&bus, "a").await;
    for number in 0..100 {
        assert!(poll_once(subscription.next()).await.is_none());
        publish(&bus, "a", number).await;
        assert_eq!(text(&mut subscription).await, number.to_string());
    }
}

pub(crate) async fn dropped_subscription_receives_nothing(scene: impl Scene) {
    let bus = scene.client().await;
    let dropped = subscribe(&bus, "a").await;
    let mut kept = subscribe(&bus, "a").await;
    publish(&bus, "a", 1).await;
    drop(dropped);
    // The operations of a client are carried out in order.
    publish(&bus, "a", 2).await;
    assert_eq!((text(&mut kept).await, text(&mut kept).await), ("1".into(), "2".into()));
    if bus.capabilities().counts_matches {
        let receipt = bus.publish(&subject("a"), "3".into()).await.unwrap();
        assert_eq!(receipt.matched, Some(1));
    }
}

pub(crate) async fn each_message_goes_to_one_member_of_a_group(scene: impl Scene) {
    let bus = scene.client().await;
    let mut members = Vec::new();
    for of in ["j.*", "j.*", "j.>"] {
        members.push(bus.subscribe(&pattern(of), SubscribeOptions::group("w")).await.unwrap());
    }
    let mut observer = subscribe(&bus, "j.*").await;
    for number in 0..150 {
        publish(&bus, "j.a", number).await;
        assert_eq!(text(&mut observer).await, number.to_string());
    }
    let mut counts = [0; 3];
    let [one, two, three] = members.as_mut_slice() else { panic!("three members") };
    while counts.iter().sum::<usize>() < 150 {
        let member = tokio::select! {
            _ = message(one) => 0,
            _ = message(two) => 1,
            _ = message(three) => 2,
        };
        counts[member] += 1;
    }
    assert_eq!(counts, [50; 3]);
    for member in &mut members {
        assert!(poll_once(member.next()).await.is_none());
    }
}

/// Runs both futures at once.
pub(crate) async fn both(one: impl Future<Output = ()>, two: impl Future<Output = ()>) {
    within("both", async { tokio::join!(one, two) }).await;
}
