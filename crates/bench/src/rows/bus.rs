//! The embedded bus. Publishing is compared with `tokio::sync::broadcast`, and requests with a pair of an
//! mpsc and a oneshot channel. The last row shows what one stopped subscription costs the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tieline_bus::{
    Broker, Bus, Event, Message, Pattern, RequestOptions, Subject, SubscribeOptions, Subscription,
};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::compare::{Bench, Error, Result};
use crate::report::{Goal, TableLine, Unit};

const PAYLOAD: &[u8] = &[b'x'; 64];
const MESSAGES: u32 = 10_000;
const MESSAGES_TO_MANY: u32 = 300;
const REQUESTS: u32 = 5000;
const MANY: usize = 100;
/// The messages of a round in which each is measured.
const MEASURED: usize = 1000;

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let bus = bench.side(async || publish(1, MESSAGES).await);
    let tokio = bench.side(async || broadcast_to(1, MESSAGES).await);
    let bus_many = bench.side(async || publish(MANY, MESSAGES_TO_MANY).await);
    let tokio_many = bench.side(async || broadcast_to(MANY, MESSAGES_TO_MANY).await);
    let requests = bench.side(async || request().await);
    let channels = bench.side(async || request_by_channels().await);
    let stopped = bench.side(async || slowest_of_others(true).await);
    let running = bench.side(async || slowest_of_others(false).await);
    let [bus, tokio] = bench.interleave([bus, tokio])?;
    let [bus_many, tokio_many] = bench.interleave([bus_many, tokio_many])?;
    let [requests, channels] = bench.interleave([requests, channels])?;
    let [stopped, running] = bench.interleave([stopped, running])?;

    let broadcast = "tokio::sync::broadcast";
    let line = |work, against, ours: &[f64], theirs: &[f64], most| {
        TableLine::compared(work, against, Unit::Time, (ours, theirs), Goal::RatioAtMost(most))
    };
    Ok(vec![
        line("bus, publish to one subscription and receive", broadcast, &bus, &tokio, 1.5),
        line("bus, publish to 100, each delivery", broadcast, &bus_many, &tokio_many, 1.2),
        line("bus, request and reply", "mpsc and oneshot", &requests, &channels, 3.0),
        line(
            "bus, publish to 99 others of a stopped subscription, p99",
            "without it",
            &stopped,
            &running,
            1.3,
        ),
    ])
}

async fn subscribe(bus: &Broker, count: usize) -> Result<Vec<Subscription>> {
    let pattern: Pattern = "files.changed".parse()?;
    let mut subscriptions = Vec::new();
    for _ in 0..count {
        subscriptions.push(bus.subscribe(&pattern, SubscribeOptions::default()).await?);
    }
    Ok(subscriptions)
}

async fn receive(subscription: &mut Subscription) -> Result<Bytes> {
    match subscription.next().await {
        Event::Message(delivery) => Ok(delivery.payload().clone()),
        other => Err(format!("expected a message, got {other:?}").into()),
    }
}

/// Returns the time of one delivery to subscriptions that are read by tasks, which wait.
async fn publish(subscriptions: usize, messages: u32) -> Result<f64> {
    let bus = Broker::default();
    let mut readers: JoinSet<Result<()>> = JoinSet::new();
    let received = Arc::new(Notify::new());
    for (mut subscription, number) in subscribe(&bus, subscriptions).await?.into_iter().zip(1..) {
        let received = (number == subscriptions).then(|| received.clone());
        readers.spawn(async move {
            for _ in 0..messages {
                receive(&mut subscription).await?;
                received.iter().for_each(|it| it.notify_one());
            }
            Ok(())
        });
    }
    let subject: Subject = "files.changed".parse()?;
    let payload = Bytes::copy_from_slice(PAYLOAD);
    let publisher = tokio::spawn(async move {
        let begun = Instant::now();
        for _ in 0..messages {
            bus.publish(&subject, Message::new(payload.clone())).await?;
            received.notified().await;
        }
        while let Some(ended) = readers.join_next().await {
            ended??;
        }
        Ok::<_, Error>(begun.elapsed())
    });
    Ok(each(publisher.await??, messages, subscriptions))
}

async fn broadcast_to(subscriptions: usize, messages: u32) -> Result<f64> {
    let (sender, _) = broadcast::channel(256);
    let mut readers: JoinSet<Result<()>> = JoinSet::new();
    let received = Arc::new(Notify::new());
    for number in 1..=subscriptions {
        let mut receiver = sender.subscribe();
        let received = (number == subscriptions).then(|| received.clone());
        readers.spawn(async move {
            for _ in 0..messages {
                receiver.recv().await?;
                received.iter().for_each(|it| it.notify_one());
            }
            Ok(())
        });
    }
    let payload = Bytes::copy_from_slice(PAYLOAD);
    let publisher = tokio::spawn(async move {
        let begun = Instant::now();
        for _ in 0..messages {
            sender.send(payload.clone())?;
            received.notified().await;
        }
        while let Some(ended) = readers.join_next().await {
            ended??;
        }
        Ok::<_, Error>(begun.elapsed())
    });
    Ok(each(publisher.await??, messages, subscriptions))
}

fn each(time: Duration, messages: u32, subscriptions: usize) -> f64 {
    time.as_secs_f64() / f64::from(messages) / subscriptions as f64
}

/// Returns the time of one request.
async fn request() -> Result<f64> {
    let bus = Broker::default();
    let subject: Subject = "echo".parse()?;
    let mut requests = bus.subscribe(&subject.clone().into(), SubscribeOptions::group("w")).await?;
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    let responder = bus.clone();
    let worker = tasks.spawn(async move {
        loop {
            let Event::Message(request) = requests.next().await else { return Ok(()) };
            if let Some(reply) = request.reply() {
                responder.publish(reply, Message::new(request.payload().clone())).await?;
            }
        }
    });
    let (done, time) = oneshot::channel();
    tasks.spawn(async move {
        let payload = Bytes::copy_from_slice(PAYLOAD);
        let begun = Instant::now();
        for _ in 0..REQUESTS {
            let message = Message::new(payload.clone());
            bus.request(&subject, message, RequestOptions::default()).await?;
        }
        let _ = done.send(begun.elapsed());
        Ok(())
    });
    let time = time.await;
    worker.abort();
    Ok(time?.as_secs_f64() / f64::from(REQUESTS))
}

async fn request_by_channels() -> Result<f64> {
    let (sender, mut requests) = mpsc::channel::<(Bytes, oneshot::Sender<Bytes>)>(256);
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    tasks.spawn(async move {
        while let Some((request, answer)) = requests.recv().await {
            let _ = answer.send(request);
        }
        Ok(())
    });
    let (done, time) = oneshot::channel();
    tasks.spawn(async move {
        let payload = Bytes::copy_from_slice(PAYLOAD);
        let begun = Instant::now();
        for _ in 0..REQUESTS {
            let (answer, answered) = oneshot::channel();
            sender.send((payload.clone(), answer)).await?;
            answered.await?;
        }
        let _ = done.send(begun.elapsed());
        Ok(())
    });
    Ok(time.await?.as_secs_f64() / f64::from(REQUESTS))
}

/// Returns the 99th percentile of the time from publishing a message until 99 subscriptions have it.
async fn slowest_of_others(with_stopped: bool) -> Result<f64> {
    let bus = Broker::default();
    let _stopped = subscribe(&bus, usize::from(with_stopped)).await?;
    let mut others = subscribe(&bus, MANY - 1).await?;
    let subject: Subject = "files.changed".parse()?;
    let payload = Bytes::copy_from_slice(PAYLOAD);
    let mut times: Vec<Duration> = Vec::with_capacity(MEASURED);
    for _ in 0..MEASURED {
        let begun = Instant::now();
        bus.publish(&subject, Message::new(payload.clone())).await?;
        for other in &mut others {
            receive(other).await?;
        }
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let slowest = times.get(MEASURED * 99 / 100).copied().unwrap_or_default();
    Ok(slowest.as_secs_f64())
}
