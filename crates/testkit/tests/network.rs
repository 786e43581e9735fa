//! The simulated network loses no data that a real network would deliver.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tieline_testkit::network::{Network, Nothing};
use tieline_testkit::wait::poll_once;
use tieline_transport::{Listener, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn writer_notices_a_dropped_reader_after_the_data_that_it_sent() {
    let mut delayed = 0;
    for seed in 0..20 {
        let network = Network::new(seed, Duration::ZERO);
        let mut listener = network.listen(&Nothing).await.unwrap();
        let (client, server) = tokio::join!(network.connect(&Nothing), listener.accept());
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        server.write_all(b"farewell").await.unwrap();
        drop(server);
        let begun = Instant::now();
        while client.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
        delayed += u32::from(begun.elapsed() > Duration::ZERO);
        let mut said = [0; 8];
        let read = poll_once(client.read_exact(&mut said)).await;
        assert!(read.is_some_and(|read| read.is_ok()) && &said == b"farewell", "seed {seed}");
    }
    assert!(delayed > 0, "nothing took any time");
}
