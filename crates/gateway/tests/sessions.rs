//! Sessions through a proxy that cuts every connection: all messages arrive exactly once and in order.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::poll_fn;
use std::pin::pin;
use std::time::{Duration, Instant};

use tieline_gateway::{Chaos, Faults};
use tieline_link::{SessionOptions, connector, listen};
use tieline_transport::{
    Channel, DynAcceptor, DynConnector, Endpoint, Incoming, Options, Receiver, ReceiverExt,
    Registry, Sender, SenderExt,
};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

async fn send_numbers(mut sender: Box<dyn Sender>, count: u64) {
    for number in 0..count {
        sender.feed(number.to_string()).await.unwrap();
        if number % 16 == 0 {
            sender.flush().await.unwrap();
        }
    }
    sender.close().await.unwrap();
    // Dropping the last half would end the session before the other side has received everything.
    poll_fn(|cx| sender.poll_gone(cx)).await;
}

/// Receives all messages and the end.
async fn receive_numbers(mut receiver: Box<dyn Receiver>, count: u64) {
    for number in 0..count {
        match receiver.recv().await {
            Incoming::Message(message) => assert_eq!(message, number.to_string()),
            other => panic!("{other:?} instead of {number}"),
        }
    }
    let end = receiver.recv().await;
    assert!(matches!(end, Incoming::End(_)), "{end:?} after the last message");
}

type Halves = (Box<dyn Sender>, Box<dyn Receiver>);

/// Returns both ends of a session. The first connection may be cut during its handshake. The client then
/// retries, and the server may be left with a session that the client does not know.
async fn begin(connector: &dyn DynConnector, acceptor: &mut dyn DynAcceptor) -> (Halves, Halves) {
    let mut connecting = pin!(async {
        loop {
            if let Ok(session) = connector.connect().await {
                let (mut sender, receiver) = session.split();
                sender.send("hello").await.unwrap();
                break (sender, receiver);
            }
        }
    });
    let (mut client, mut arrived) = (None, JoinSet::new());
    let server = loop {
        tokio::select! {
            connected = &mut connecting, if client.is_none() => client = Some(connected),
            accepted = acceptor.accept() => {
                let (sender, mut receiver) = accepted.unwrap().split();
                arrived.spawn(async move { (receiver.recv().await, (sender, receiver)) });
            }
            Some(Ok((Incoming::Message(_), server))) = arrived.join_next() => break server,
        }
    };
    let client = match client {
        Some(client) => client,
        None => connecting.await,
    };
    (client, server)
}

/// Sends `count` messages in each direction. Returns the number of cuts.
async fn run(count: u64, cut_every: Duration) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let at = |name| Endpoint::unix(directory.path().join(name));
    let (registry, usual) = (Registry::new(), Options::default());
    // The client's last frame may be lost with a connection. The server then waits for the grace period.
    let options = SessionOptions { grace: Duration::from_secs(10), ..SessionOptions::default() };
    let mut acceptor = listen(&registry, &at("s").resumable(), &usual, options).await.unwrap();
    let faults = Faults { cut_every: Some(cut_every), ..Faults::default() };
    let chaos = Chaos::listen(&registry, &at("p"), &at("s"), &usual, faults).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let report = tokio::spawn(chaos.run(async {
        let _ = stopped.await;
    }));

    let connector = connector(&registry, &at("p").resumable(), &usual, options).unwrap();
    let ((to_server, from_server), (to_client, from_client)) =
        begin(&*connector, &mut *acceptor).await;
    let begun = Instant::now();
    let tasks = [
        tokio::spawn(send_numbers(to_server, count)),
        tokio::spawn(send_numbers(to_client, count)),
        tokio::spawn(receive_numbers(from_server, count)),
        tokio::spawn(receive_numbers(from_client, count)),
    ];
    for task in tasks {
        task.await.unwrap();
    }
    let took = begun.elapsed();
    stop.send(()).unwrap();
    let report = report.await.unwrap();
    println!("{count} messages in each direction in {took:?}: {report:?}");
    report.cut
}

#[test]
fn all_messages_arrive_through_a_proxy_that_cuts_every_connection() {
    // With `TIELINE_SOAK=1`, a million messages are sent.
    let (count, every, at_least, limit) = match std::env::var_os("TIELINE_SOAK") {
        Some(_) => (1_000_000, 50, 20, 600),
        None => (20_000, 20, 2, 60),
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let limit = Duration::from_secs(limit);
        // On a busy machine a handshake takes longer than the time between two cuts.
        for every in [1, 4, 16].map(|times| Duration::from_millis(every * times)) {
            match tokio::time::timeout(limit, run(count, every)).await {
                Ok(cuts) => return assert!(cuts >= at_least, "{cuts} cuts"),
                Err(_) => println!("cut every {every:?}: not finished in {limit:?}"),
            }
        }
        panic!("not finished with any interval between cuts");
    });
}
