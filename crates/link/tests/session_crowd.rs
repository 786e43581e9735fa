//! Many clients that lose the same server at the same moment, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tieline_link::{Link, LinkOptions, Recovery, SessionOptions, connector, listen};
use tieline_proto::BackoffConfig;
use tieline_testkit::network::Network;
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, DynConnector, Incoming, MemoryChannel, Options, Receiver,
    ReceiverExt, Registry, Sender, SenderExt, TransportError, memory_pair,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let limit = Duration::from_secs(100_000);
    runtime.block_on(async { timeout(limit, test).await.expect("the test hangs") })
}

/// How many numbers each side sends: half before all connections are cut, and half right after that.
const NUMBERS: u64 = 10;

async fn send_numbers(
    mut sender: Box<dyn Sender>,
    mut go_on: watch::Receiver<bool>,
) -> Box<dyn Sender> {
    for number in 0..NUMBERS {
        if number == NUMBERS / 2 {
            go_on.wait_for(|go_on| *go_on).await.unwrap();
        }
        sender.send(number.to_string()).await.unwrap();
    }
    sender
}

async fn receive_numbers(mut receiver: Box<dyn Receiver>) -> Box<dyn Receiver> {
    for number in 0..NUMBERS {
        match receiver.recv().await {
            Incoming::Message(message) => assert_eq!(message, number.to_string()),
            other => panic!("{other:?}"),
        }
    }
    receiver
}

#[test]
fn thousand_sessions_cut_at_once_all_resume_without_loss() {
    const CLIENTS: u64 = 1_000;
    block_on(async {
        let network = Network::new(1, Duration::ZERO);
        let mut registry = Registry::default();
        registry.register("net", network.clone());
        let endpoint = Network::endpoint().resumable();
        let (usual, options) = (Options::default(), SessionOptions::default());
        let mut acceptor = listen(&registry, &endpoint, &usual, options).await.unwrap();
        let connector: Arc<_> = connector(&registry, &endpoint, &usual, options).unwrap();
        let (go_on, goes_on) = watch::channel(false);
        let (mut senders, mut receivers) = (JoinSet::new(), JoinSet::new());
        for _ in 0..CLIENTS {
            let (client, server) = tokio::join!(connector.connect(), acceptor.accept());
            for (sender, receiver) in [client.unwrap().split(), server.unwrap().split()] {
                senders.spawn(send_numbers(sender, goes_on.clone()));
                receivers.spawn(receive_numbers(receiver));
            }
        }
        // The first half is in flight by now, or has arrived.
        network.refuse_all(true);
        network.cut_all();
        go_on.send_replace(true);
        // Each client has tried to reconnect at least once.
        sleep(Duration::from_secs(8)).await;
        assert_eq!(network.events().connections, CLIENTS);
        network.refuse_all(false);
        // Keep both halves until everything is received: dropping them would end the session.
        let _senders = senders.join_all().await;
        let _receivers = receivers.join_all().await;
        assert_eq!(network.events().connections, 2 * CLIENTS, "each client must have resumed once");
    });
}

/// A connector that records when it is called, and keeps the far ends.
#[derive(Default)]
struct RecordingConnector {
    at: Mutex<Vec<Instant>>,
    far_ends: Mutex<Vec<MemoryChannel>>,
}

impl DynConnector for RecordingConnector {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        self.at.lock().unwrap().push(Instant::now());
        let (ours, theirs) = memory_pair();
        self.far_ends.lock().unwrap().push(theirs);
        Box::pin(std::future::ready(Ok(ours.boxed())))
    }
}

#[test]
fn ten_thousand_remote_clients_do_not_reconnect_at_once() {
    const LINKS: usize = 10_000;
    const BIN: Duration = Duration::from_millis(100);
    block_on(async {
        let asked = Arc::new(RecordingConnector::default());
        let remote = LinkOptions::recovering(Recovery::Reconnect(BackoffConfig::REMOTE));
        let mut links = JoinSet::new();
        for _ in 0..LINKS {
            let (sender, mut receiver) =
                Link::connect(asked.clone(), remote).await.unwrap().split();
            links.spawn(async move {
                assert!(matches!(receiver.recv().await, Incoming::Reset(_)));
                (sender, receiver)
            });
        }
        asked.at.lock().unwrap().clear();
        let begun = Instant::now();
        let far_ends = std::mem::take(&mut *asked.far_ends.lock().unwrap());
        drop(far_ends);
        let _links = links.join_all().await;
        let mut bins = [0_usize; 51];
        for at in &*asked.at.lock().unwrap() {
            bins[((*at - begun).as_millis() / BIN.as_millis()) as usize] += 1;
        }
        assert_eq!(bins.iter().sum::<usize>(), LINKS, "each link must reconnect once: {bins:?}");
        let most = bins.iter().max().unwrap();
        println!("at most {most} of {LINKS} in {BIN:?}: {bins:?}");
        // The mean of the fifty bins is 200; 300 is seven standard deviations above that.
        assert!(*most <= LINKS * 3 / 100, "{bins:?}");
    });
}
