//! A comparison of a line over a named pipe with tokio's raw pipes in the same run. Under Wine, every
//! operation goes through a server, so only the ratio is meaningful.
//!
//! By default, both do a little work, and the ratio is printed. With `TIELINE_SOAK=1`, which needs an
//! otherwise idle machine, the ratio is checked against its limits.

use std::time::{Duration, Instant};

use tieline_testkit::wait::block_on;
use tieline_transport::{Connection, Listener, Pipe, PipeConfig, Transport};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::windows::named_pipe::{ClientOptions, ServerOptions};

use crate::name;

/// The number of short turns for each side. Only the shortest turn is used: other processes also use the
/// machine, but at least one of many turns is undisturbed.
const TURNS: usize = 60;
const ROUND_TRIPS: usize = 20;
const STREAMED: usize = 512 * 1024;

/// The maximum ratio of round-trip times, and the minimum ratio of throughputs.
const ROUND_TRIP: f64 = 1.2;
const STREAM: f64 = 0.8;

#[test]
fn round_trips_and_streams_work_like_those_of_raw_pipes() {
    let is_long = std::env::var_os("TIELINE_SOAK").is_some();
    let turns = if is_long { TURNS } else { 3 };
    block_on(async {
        let mut raw = raw().await;
        let mut ours = ours().await;
        let shortest = |so_far: &mut Duration, now: Duration| *so_far = now.min(*so_far);
        let (mut raw_best, mut our_best) = ([Duration::MAX; 2], [Duration::MAX; 2]);
        for _ in 0..turns {
            // The turns alternate, so that a disturbance affects both sides.
            shortest(&mut raw_best[0], raw.round_trips().await);
            shortest(&mut our_best[0], ours.round_trips().await);
            shortest(&mut raw_best[1], raw.stream().await);
            shortest(&mut our_best[1], ours.stream().await);
        }
        let round_trip = our_best[0].as_secs_f64() / raw_best[0].as_secs_f64();
        let stream = raw_best[1].as_secs_f64() / our_best[1].as_secs_f64();
        println!(
            "round trip: {round_trip:.2} of a raw pipe's time; stream: {stream:.2} of its rate"
        );
        if is_long {
            assert!(round_trip <= ROUND_TRIP, "{round_trip}: {our_best:?} and {raw_best:?}");
            assert!(stream >= STREAM, "{stream}: {our_best:?} and {raw_best:?}");
        }
    });
}

/// The near end of a pipe whose far end runs `far_side`.
struct Near<R, W> {
    read: R,
    write: W,
}

async fn ours() -> Near<impl AsyncRead + Unpin, impl AsyncWrite + Unpin> {
    let config = PipeConfig::new(name());
    let mut listener = Pipe.listen(&config).await.unwrap();
    let (near, far) = tokio::join!(Pipe.connect(&config), listener.accept());
    let (read, write) = far.unwrap().into_split();
    tokio::spawn(far_side(read, write));
    let (read, write) = near.unwrap().into_split();
    Near { read, write }
}

async fn raw() -> Near<impl AsyncRead + Unpin, impl AsyncWrite + Unpin> {
    let path = format!(r"\\.\pipe\{}", name());
    let server = ServerOptions::new().first_pipe_instance(true).create(&path).unwrap();
    let client = ClientOptions::new().open(&path).unwrap();
    server.connect().await.unwrap();
    let (read, write) = tokio::io::split(server);
    tokio::spawn(far_side(read, write));
    let (read, write) = tokio::io::split(client);
    Near { read, write }
}

/// Sends each message back. Before that, if the first byte of the message is 1, reads a stream.
async fn far_side(mut read: impl AsyncRead + Unpin, mut write: impl AsyncWrite + Unpin) {
    let mut message = [0; 64];
    let mut buffer = vec![0; 64 * 1024];
    while read.read_exact(&mut message).await.is_ok() {
        if message[0] == 1 {
            let mut left = STREAMED;
            while left > 0 {
                left -= read.read(&mut buffer).await.unwrap();
            }
        }
        write.write_all(&message).await.unwrap();
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Near<R, W> {
    async fn round_trips(&mut self) -> Duration {
        let mut message = [0; 64];
        let begun = Instant::now();
        for _ in 0..ROUND_TRIPS {
            self.write.write_all(&message).await.unwrap();
            self.read.read_exact(&mut message).await.unwrap();
            assert_eq!(message, [0; 64]);
        }
        begun.elapsed()
    }

    async fn stream(&mut self) -> Duration {
        let mut message = [1; 64];
        let piece = vec![1; 64 * 1024];
        let begun = Instant::now();
        self.write.write_all(&message).await.unwrap();
        for _ in 0..STREAMED / piece.len() {
            self.write.write_all(&piece).await.unwrap();
        }
        self.read.read_exact(&mut message).await.unwrap();
        assert_eq!(message, [1; 64]);
        begun.elapsed()
    }
}
