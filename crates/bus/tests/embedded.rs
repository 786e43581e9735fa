//! The embedded broker: the conformance suite, and what only a bus within one process can promise.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod conformance;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use conformance::{Scene, conformance, pattern, publish, subject, subscribe, text};
use tieline_bus::{
    Broker, BrokerConfig, Bus, Client, ClientLimits, End, Error, Event, Message, Overflow,
    QueueLimits, Receipt, RequestOptions, Rights, SubscribeOptions,
};
use tieline_testkit::wait::{block_on, poll_once};
use tokio::task::JoinSet;

struct Embedded(Broker);

impl Scene for Embedded {
    type Client = Client;

    const MAX_SUBSCRIPTIONS: usize = 1024;
    const MAX_MESSAGE: usize = 8 << 20;

    async fn start() -> Self {
        Self(Broker::default())
    }

    async fn client(&self) -> Client {
        self.0.client(Rights::user(), ClientLimits::default())
    }
}

conformance!(Embedded);

fn short(overflow: Overflow) -> SubscribeOptions {
    let queue = QueueLimits { messages: 1, ..QueueLimits::default() };
    SubscribeOptions { queue, overflow, ..SubscribeOptions::default() }
}

#[test]
fn dropped_publication_that_waits_is_delivered_to_no_subscription() {
    block_on(async {
        let bus = Broker::default();
        let mut before = subscribe(&bus, "a").await;
        let mut full = bus.subscribe(&pattern("*"), short(Overflow::Block)).await.unwrap();
        let mut after = subscribe(&bus, "a").await;
        publish(&bus, "a", "first").await;
        let (subject, second) = (subject("a"), || Message::new("second"));
        assert_eq!(poll_once(bus.publish(&subject, second())).await, None);
        for subscription in [&mut before, &mut full, &mut after] {
            assert_eq!(text(subscription).await, "first");
            assert_eq!(poll_once(subscription.next()).await, None);
        }
        let receipt = bus.publish(&subject, second()).await.unwrap();
        assert_eq!(receipt, Receipt { matched: Some(3) });
    });
}

#[test]
fn publishers_that_wait_for_the_same_queues_proceed_in_order() {
    block_on(async {
        let bus = Broker::default();
        let mut one = bus.subscribe(&pattern("*.a"), short(Overflow::Block)).await.unwrap();
        let mut two = bus.subscribe(&pattern("b.*"), short(Overflow::Block)).await.unwrap();
        // Each of these waits for both queues, or for one of them.
        let publish = |to, number: u32| {
            let (bus, to) = (bus.clone(), subject(to));
            async move { bus.publish(&to, Message::new(number.to_string())).await.unwrap() }
        };
        publish("b.a", 0).await;
        let mut waiting: Vec<_> = (1..=30)
            .map(|number| {
                (number, Box::pin(publish(["b.a", "c.a", "b.c"][number as usize % 3], number)))
            })
            .collect();
        for (_, future) in &mut waiting {
            assert_eq!(poll_once(future.as_mut()).await, None);
        }
        let mut tasks = JoinSet::new();
        waiting.into_iter().for_each(|(_, future)| drop(tasks.spawn(future)));
        let mut received = [Vec::new(), Vec::new()];
        while received.iter().map(Vec::len).sum::<usize>() < 2 + 10 + 30 {
            let (which, text) = tokio::select! {
                text = text(&mut one) => (0, text),
                text = text(&mut two) => (1, text),
            };
            received[which].push(text.parse::<u32>().unwrap());
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        let expected = |skipped| {
            let numbers = (1..=30).filter(|number| number % 3 != skipped);
            std::iter::once(0).chain(numbers).collect::<Vec<u32>>()
        };
        for (received, skipped) in received.iter_mut().zip([2, 1]) {
            received.sort_unstable();
            assert_eq!(*received, expected(skipped));
        }
    });
}

#[test]
fn closing_ends_subscriptions_after_their_queues_and_fails_requests() {
    block_on(async {
        let bus = Broker::default();
        let client = bus.client(Rights::user(), ClientLimits::default());
        let mut subscription = subscribe(&client, "a").await;
        let request = tokio::spawn({
            let client = client.clone();
            async move { client.request(&subject("a"), "?".into(), RequestOptions::default()).await }
        });
        assert_eq!(text(&mut subscription).await, "?");
        publish(&client, "a", "last").await;
        // Clients do not keep the broker open.
        drop(bus);
        assert_eq!(text(&mut subscription).await, "last");
        assert_eq!(subscription.next().await, Event::End(End::Closed));
        assert_eq!(request.await.unwrap(), Err(Error::Closed));
        assert_eq!(client.publish(&subject("a"), "".into()).await, Err(Error::Closed));
        let refused = client.subscribe(&pattern("a"), SubscribeOptions::default()).await;
        assert_eq!(refused.unwrap_err(), Error::Closed);
    });
}

#[test]
fn limits_of_the_broker_hold_for_all_clients_together() {
    block_on(async {
        let bus = Broker::new(BrokerConfig { max_requests: 3, ..BrokerConfig::default() });
        let mut subscriptions = Vec::new();
        for number in 0..10_000 {
            subscriptions.push(subscribe(&bus, &format!("n{number}")).await);
        }
        let client = bus.client(Rights::user(), ClientLimits::default());
        let expected = Error::TooManySubscriptions { limit: 10_000, of_client: false };
        for refused in [
            bus.subscribe(&pattern("more"), SubscribeOptions::default()).await,
            client.subscribe(&pattern("more"), SubscribeOptions::default()).await,
        ] {
            assert_eq!(refused.unwrap_err(), expected);
        }
        publish(&client, "n9999", "still delivered").await;
        assert_eq!(text(&mut subscriptions[9999]).await, "still delivered");

        let mut waiting = Vec::new();
        for _ in 0..3 {
            let (client, to) = (client.clone(), subject("n1"));
            let mut request =
                Box::pin(
                    async move { client.request(&to, "".into(), RequestOptions::default()).await },
                );
            assert_eq!(poll_once(request.as_mut()).await, None);
            waiting.push(request);
        }
        let refused = bus.request(&subject("n1"), "".into(), RequestOptions::default()).await;
        assert_eq!(refused, Err(Error::TooManyRequests { limit: 3 }));
        drop(waiting);
        assert_eq!(bus.stats().requests, 0);
        drop(subscriptions);
        assert_eq!(bus.stats().subscriptions, 0);
    });
}

#[test]
fn message_of_one_gibibyte_is_refused() {
    block_on(async {
        let bus = Broker::default();
        let message = Message::new(vec![0; 1 << 30]);
        let refused = bus.publish(&subject("a"), message).await.unwrap_err();
        let text = "the message has 1073741824 bytes, and the limit is 8MiB. Send a smaller message, \
                    or raise the broker's limit";
        assert_eq!(refused.to_string(), text);
    });
}

#[test]
fn request_that_is_cancelled_in_the_queue_is_removed_from_it() {
    block_on(async {
        let bus = Broker::default();
        let mut work = bus.subscribe(&pattern("w"), SubscribeOptions::group("w")).await.unwrap();
        let to = subject("w");
        let mut request = Box::pin(bus.request(&to, "abandoned".into(), RequestOptions::default()));
        assert_eq!(poll_once(request.as_mut()).await, None);
        drop(request);
        publish(&bus, "w", "next").await;
        assert_eq!(text(&mut work).await, "next");
    });
}

#[test]
fn request_that_waits_for_room_is_taken_by_any_member_and_by_new_ones() {
    block_on(async {
        let bus = Broker::default();
        let member = || SubscribeOptions { group: Some("w".into()), ..short(Overflow::DropNewest) };
        for kind in ["other member", "new member"] {
            let _hangs = bus.subscribe(&pattern("w"), member()).await.unwrap();
            let mut works = bus.subscribe(&pattern("w"), member()).await.unwrap();
            for number in 0..2 {
                publish(&bus, "w", number).await;
            }
            let requester = bus.clone();
            let request = tokio::spawn(async move {
                let options = RequestOptions::default();
                requester.request(&subject("w"), "question".into(), options).await
            });
            while bus.stats().requests == 0 {
                tokio::task::yield_now().await;
            }
            if kind == "new member" {
                works = bus.subscribe(&pattern("w"), member()).await.unwrap();
            } else {
                text(&mut works).await;
            }
            let question = conformance::message(&mut works).await;
            assert_eq!(*question.payload(), "question");
            conformance::answer(&bus, &question, "answer").await;
            assert_eq!(request.await.unwrap().unwrap().payload, "answer");
        }
    });
}

#[test]
fn dropped_request_in_an_overflowing_queue_fails_at_once() {
    block_on(async {
        let bus = Broker::default();
        let _slow = bus.subscribe(&pattern("w"), short(Overflow::DropOldest)).await.unwrap();
        let to = subject("w");
        let mut request = Box::pin(bus.request(&to, "".into(), RequestOptions::default()));
        assert_eq!(poll_once(request.as_mut()).await, None);
        publish(&bus, "w", "newer").await;
        let lost = Error::ResponderLost { subject: "w".into(), taken: false };
        assert_eq!(request.await, Err(lost));
    });
}

/// Counts warnings.
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn stopped_subscription_causes_one_warning_and_its_losses_are_counted() {
    let warnings = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let guard = tracing::subscriber::set_default(Warnings(warnings.clone()));
    runtime.block_on(async {
        let bus = Broker::default();
        let _stopped = subscribe(&bus, "a").await;
        for number in 0..10_000 {
            publish(&bus, "a", number).await;
        }
        assert_eq!(bus.stats().lost, 10_000 - 256);
    });
    drop(guard);
    assert_eq!(warnings.load(Ordering::Relaxed), 1);
}
