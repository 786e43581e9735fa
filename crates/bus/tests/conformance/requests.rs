use std::sync::Arc;
use std::time::Duration;

use tieline_bus::{Bus, Error, Event, Message, RequestOptions, SubscribeOptions, Subscription};
use tieline_testkit::wait::within;
use tokio::task::JoinSet;

use super::{Scene, answer, message, pattern, subject, subscribe};

const LONG: Duration = Duration::from_secs(3600);

/// Makes a request in a task.
fn request(
    bus: &Arc<impl Bus>,
    to: &str,
    options: RequestOptions,
) -> tokio::task::JoinHandle<Result<Message, Error>> {
    let (bus, to) = (bus.clone(), subject(to));
    tokio::spawn(async move { bus.request(&to, "question".into(), options).await })
}

async fn worker(bus: &impl Bus) -> Subscription {
    bus.subscribe(&pattern("work"), SubscribeOptions::group("w")).await.unwrap()
}

/// Receives the cancellation of this request.
async fn cancellation(worker: &mut Subscription, request: &tieline_bus::Delivery) {
    let reply = request.reply().unwrap().clone();
    assert_eq!(within("a cancellation", worker.next()).await, Event::Cancel { reply });
}

pub(crate) async fn requests_get_their_own_answers(scene: impl Scene) {
    let (requester, responder) = (Arc::new(scene.client().await), scene.client().await);
    let mut work = worker(&responder).await;
    let mut requests = JoinSet::new();
    for number in 0..100 {
        let requester = requester.clone();
        requests.spawn(async move {
            let question = Message::new(number.to_string());
            let options = RequestOptions::timeout(LONG);
            let answer = requester.request(&subject("work"), question, options).await.unwrap();
            assert_eq!(answer.payload, format!("{number}!"));
        });
    }
    // Answered in another order than they were made.
    let mut received = Vec::new();
    while received.len() < 100 {
        received.push(message(&mut work).await);
    }
    for request in received.iter().rev() {
        let question = String::from_utf8(request.payload().to_vec()).unwrap();
        assert!(matches!(
            answer(&responder, request, &format!("{question}!")).await,
            Some(1) | None
        ));
    }
    while let Some(ended) = within("all requests", requests.join_next()).await {
        ended.unwrap();
    }
}

pub(crate) async fn member_that_hangs_gets_no_further_requests(scene: impl Scene) {
    let (bus, hangs) = (Arc::new(scene.client().await), scene.client().await);
    let (mut hanging, mut working) = (worker(&hangs).await, worker(&*bus).await);
    let mut stuck = Vec::new();
    for number in 0..20 {
        let call = request(&bus, "work", RequestOptions::timeout(LONG));
        tokio::select! {
            got = message(&mut hanging) => stuck.push((got, call)),
            got = message(&mut working) => {
                answer(&*bus, &got, "done").await;
                assert_eq!(call.await.unwrap().unwrap().payload, "done", "{number}");
            }
        }
    }
    assert_eq!(stuck.len(), 1);
    let (got, call) = stuck.remove(0);
    answer(&hangs, &got, "late").await;
    assert_eq!(within("the answer", call).await.unwrap().unwrap().payload, "late");
}

pub(crate) async fn request_without_responders_fails_at_once(scene: impl Scene) {
    let bus = scene.client().await;
    let _other = subscribe(&bus, "elsewhere").await;
    let options = RequestOptions::timeout(LONG);
    let outcome = within("the error", bus.request(&subject("work"), "".into(), options)).await;
    assert_eq!(outcome, Err(Error::NoResponders { subject: "work".into() }));
}

pub(crate) async fn timed_out_request_is_cancelled_at_the_responder(scene: impl Scene) {
    let bus = Arc::new(scene.client().await);
    let mut work = worker(&*bus).await;
    let after = Duration::from_millis(300);
    let call = request(&bus, "work", RequestOptions::timeout(after));
    let received = message(&mut work).await;
    let outcome = within("the timeout", call).await.unwrap();
    assert_eq!(outcome, Err(Error::Timeout { subject: "work".into(), after }));
    cancellation(&mut work, &received).await;
}

pub(crate) async fn dropped_request_is_cancelled_at_the_responder(scene: impl Scene) {
    let bus = Arc::new(scene.client().await);
    let mut work = worker(&*bus).await;
    let call = request(&bus, "work", RequestOptions::timeout(LONG));
    let received = message(&mut work).await;
    call.abort();
    cancellation(&mut work, &received).await;
}

pub(crate) async fn cancelled_request_fails_and_is_cancelled_at_the_responder(scene: impl Scene) {
    let bus = Arc::new(scene.client().await);
    let mut work = worker(&*bus).await;
    let (options, handle) = RequestOptions::timeout(LONG).cancellable();
    let call = request(&bus, "work", options);
    let received = message(&mut work).await;
    handle.cancel();
    let outcome = within("the cancellation", call).await.unwrap();
    assert_eq!(outcome, Err(Error::Cancelled { subject: "work".into() }));
    cancellation(&mut work, &received).await;
}

pub(crate) async fn late_answers_are_not_delivered(scene: impl Scene) {
    let bus = Arc::new(scene.client().await);
    let mut work = worker(&*bus).await;
    let call = request(&bus, "work", RequestOptions::timeout(LONG));
    let abandoned = message(&mut work).await;
    call.abort();
    cancellation(&mut work, &abandoned).await;
    let call = request(&bus, "work", RequestOptions::timeout(LONG));
    let next = message(&mut work).await;
    assert!(matches!(answer(&*bus, &abandoned, "late").await, Some(0) | None));
    answer(&*bus, &next, "right").await;
    assert_eq!(within("the answer", call).await.unwrap().unwrap().payload, "right");
}

pub(crate) async fn only_the_responder_can_answer(scene: impl Scene) {
    let (bus, third) = (Arc::new(scene.client().await), scene.client().await);
    let mut work = worker(&*bus).await;
    let call = request(&bus, "work", RequestOptions::timeout(LONG));
    let received = message(&mut work).await;
    let reply = received.reply().unwrap().clone();
    let refused = third.publish(&reply, "forged".into()).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    assert!(!call.is_finished());
    answer(&*bus, &received, "genuine").await;
    assert_eq!(within("the answer", call).await.unwrap().unwrap().payload, "genuine");
}

pub(crate) async fn request_fails_when_its_responder_ends(scene: impl Scene) {
    let bus = Arc::new(scene.client().await);
    for taken in [true, false] {
        let mut work = worker(&*bus).await;
        let mut log = subscribe(&*bus, "log").await;
        let call = request(&bus, "work", RequestOptions::timeout(LONG));
        if taken {
            message(&mut work).await;
        } else {
            // The request may be on its way; it is not taken in any case.
            within("the request", request_is_made(&*bus, &mut log)).await;
        }
        drop(work);
        let outcome = within("the end", call).await.unwrap();
        let subject = Arc::from("work");
        match outcome {
            Err(Error::ResponderLost { taken: got, .. }) => assert!(got || !taken),
            // The subscription ended first.
            other => assert!(!taken && other == Err(Error::NoResponders { subject }), "{other:?}"),
        }
    }
}

async fn request_is_made(bus: &impl Bus, log: &mut Subscription) {
    for number in 0..10 {
        super::publish(bus, "log", number).await;
        message(log).await;
    }
}
