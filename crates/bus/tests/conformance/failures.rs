use tieline_bus::{
    Bus, Error, Message, Operation, QueueLimits, RequestOptions, SubscribeOptions, Subscription,
};

use super::{Scene, pattern, publish, subject, subscribe, text};

/// Checks that the client still works.
async fn works(bus: &impl Bus, subscription: &mut Subscription) {
    publish(bus, "fine", "yes").await;
    assert_eq!(text(subscription).await, "yes");
}

pub(crate) async fn reserved_subjects_are_refused(scene: impl Scene) {
    let bus = scene.client().await;
    let mut fine = subscribe(&bus, "fine").await;
    for to in ["tl.svc.a.open", "tl", "_INBOX", "_INBOX.a.b"] {
        let refused = bus.publish(&subject(to), "".into()).await;
        if to.starts_with("tl") {
            let expected = Error::Denied { operation: Operation::Publish, subject: to.into() };
            assert_eq!(refused, Err(expected));
            let request = bus.request(&subject(to), "".into(), RequestOptions::default()).await;
            assert_eq!(request.unwrap_err(), refused.unwrap_err());
        } else {
            // An answer to a request that does not exist.
            assert!(matches!(refused.unwrap().matched, Some(0) | None));
        }
    }
    for to in ["tl.>", "tl.evt.*.*", "_INBOX.>", "_INBOX.1"] {
        let refused = bus.subscribe(&pattern(to), SubscribeOptions::default()).await;
        let expected = Error::Denied { operation: Operation::Subscribe, subject: to.into() };
        assert_eq!(refused.unwrap_err(), expected);
    }
    works(&bus, &mut fine).await;
}

pub(crate) async fn oversize_messages_are_refused(scene: impl Scene) {
    async fn check<S: Scene>(scene: &S) {
        let bus = scene.client().await;
        let mut fine = subscribe(&bus, "fine").await;
        let largest = Message::new(vec![0; S::MAX_MESSAGE]);
        bus.publish(&subject("fine"), largest.clone()).await.unwrap();
        assert_eq!(super::message(&mut fine).await.payload().len(), S::MAX_MESSAGE);
        let larger = largest.with_header("a", "b").unwrap();
        let refused = bus.publish(&subject("fine"), larger.clone()).await;
        assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
        let refused = bus.request(&subject("fine"), larger, RequestOptions::default()).await;
        assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
        works(&bus, &mut fine).await;
    }
    check(&scene).await;
}

pub(crate) async fn too_many_subscriptions_are_refused(scene: impl Scene) {
    async fn check<S: Scene>(scene: &S) {
        let (bus, other) = (scene.client().await, scene.client().await);
        let mut fine = subscribe(&bus, "fine").await;
        let mut subscriptions = Vec::new();
        for number in 1..S::MAX_SUBSCRIPTIONS {
            subscriptions.push(subscribe(&bus, &format!("many.{number}")).await);
        }
        for _ in 0..3 {
            let refused = bus.subscribe(&pattern("more"), SubscribeOptions::default()).await;
            let limit = S::MAX_SUBSCRIPTIONS;
            let expected = Error::TooManySubscriptions { limit, of_client: true };
            assert_eq!(refused.unwrap_err(), expected);
        }
        works(&bus, &mut fine).await;
        let mut of_other = subscribe(&other, "fine").await;
        works(&other, &mut of_other).await;
        drop(subscriptions);
        let _again = subscribe(&bus, "more").await;
    }
    check(&scene).await;
}

pub(crate) async fn invalid_groups_and_queues_are_refused(scene: impl Scene) {
    let bus = scene.client().await;
    for name in ["", "a b", "a.b", "*", ">"] {
        let refused = bus.subscribe(&pattern("a"), SubscribeOptions::group(name)).await;
        assert!(matches!(refused, Err(Error::Group(_))), "{name:?}: {refused:?}");
    }
    let queue = QueueLimits { messages: usize::MAX, ..QueueLimits::default() };
    let options = SubscribeOptions { queue, ..SubscribeOptions::default() };
    let refused = bus.subscribe(&pattern("a"), options).await;
    assert!(matches!(refused, Err(Error::QueueTooLong { .. })), "{refused:?}");
    let mut fine = subscribe(&bus, "fine").await;
    works(&bus, &mut fine).await;
}
