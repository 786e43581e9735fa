//! Each injected fault has its effect, at its time, and no other effect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use proptest::prelude::*;
use tieline_gateway::{Chaos, ChaosReport, Faults};
use tieline_proto::ByteSize;
use tieline_transport::{BoxConnection, DynListener, Endpoint, ErrorKind, Options, Registry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const SECOND: Duration = Duration::from_secs(1);
/// The limit is in virtual time, so an endless wait fails at once.
const LIMIT: Duration = Duration::from_secs(1_000_000);
/// The resolution of the runtime's clock.
const TICK: Duration = Duration::from_millis(1);

struct Rig {
    registry: Registry,
    front: Endpoint,
    back: Box<dyn DynListener>,
    stop: oneshot::Sender<()>,
    report: JoinHandle<ChaosReport>,
}

impl Rig {
    async fn new(faults: Faults) -> Self {
        let registry = Registry::new();
        let (front, back) = (Endpoint::memory("front"), Endpoint::memory("back"));
        let options = Options::default();
        let chaos = Chaos::listen(&registry, &front, &back, &options, faults).await.unwrap();
        let back = registry.listen_bytes(&back, &options).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let report = tokio::spawn(chaos.run(async {
            let _ = stopped.await;
        }));
        Self { registry, front, back, stop, report }
    }

    async fn client(&self) -> BoxConnection {
        self.registry.connect_bytes(&self.front, &Options::default()).await.unwrap()
    }

    /// Returns the two ends of one connection.
    async fn pair(&mut self) -> (BoxConnection, BoxConnection) {
        let client = self.client().await;
        (client, self.back.accept().await.unwrap())
    }

    async fn stop(self) -> ChaosReport {
        self.stop.send(()).unwrap();
        self.report.await.unwrap()
    }
}

async fn rest(connection: &mut BoxConnection) -> Vec<u8> {
    let mut rest = Vec::new();
    timeout(LIMIT, connection.read_to_end(&mut rest)).await.expect("an end").unwrap();
    rest
}

async fn exact(connection: &mut BoxConnection, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(LIMIT, connection.read_exact(&mut bytes)).await.expect("bytes").unwrap();
    bytes
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(test)
}

/// Returns pseudo-random bytes.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn proxy_without_faults_is_transparent(
        there in prop::collection::vec(1..100_000_usize, 0..8),
        back in prop::collection::vec(1..100_000_usize, 0..8),
    ) {
        let [there, back] =
            [there, back].map(|pieces| pieces.into_iter().map(bytes).collect::<Vec<_>>());
        let report = block_on(async {
            let mut rig = Rig::new(Faults::default()).await;
            let (mut client, mut target) = rig.pair().await;
            let asking = async {
                for piece in &there {
                    client.write_all(piece).await.unwrap();
                }
                client.shutdown().await.unwrap();
                rest(&mut client).await
            };
            // The target answers after the client's input has ended, so that one direction outlives the other.
            let answering = async {
                let received = rest(&mut target).await;
                for piece in &back {
                    target.write_all(piece).await.unwrap();
                }
                target.shutdown().await.unwrap();
                received
            };
            let (answer, received) = tokio::join!(asking, answering);
            assert!(answer == back.concat() && received == there.concat());
            rig.stop().await
        });
        let sent = |pieces: &[Vec<u8>]| pieces.iter().map(Vec::len).sum::<usize>() as u64;
        prop_assert_eq!((report.to_target, report.to_client), (sent(&there), sent(&back)));
        let others = (report.connections, report.refused, report.cut, report.dropped);
        prop_assert_eq!((others, report.corrupted), ((1, 0, 0, 0), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn stalled_reader_blocks_the_writer() {
    for (delay, max) in [(Duration::ZERO, 256 * 1024), (SECOND, 1200 * 1024)] {
        let mut rig = Rig::new(Faults { delay, ..Faults::default() }).await;
        let (mut client, _target) = rig.pair().await;
        let mut accepted = 0;
        while let Ok(written) = timeout(100 * SECOND, client.write(&[7; 4096])).await {
            accepted += written.unwrap();
            assert!(accepted <= max, "{accepted} bytes are buffered");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cut_closes_both_sides_on_time_in_the_middle_of_a_message() {
    let cut_every = Some(5 * SECOND);
    // Bytes that are delayed at the time of the cut do not arrive.
    let mut rig = Rig::new(Faults { cut_every, delay: SECOND, ..Faults::default() }).await;
    for round in 1..=3 {
        let (mut client, mut target) = rig.pair().await;
        let begun = Instant::now();
        client.write_all(b"{\"half\":").await.unwrap();
        assert_eq!(exact(&mut target, 8).await, b"{\"half\":");
        sleep_until(begun + 5 * SECOND - 100 * TICK).await;
        client.write_all(b"\"whole\"}").await.unwrap();
        assert_eq!(rest(&mut target).await, b"");
        assert!(begun.elapsed() >= 5 * SECOND && begun.elapsed() <= 5 * SECOND + 2 * TICK);
        assert_eq!(rest(&mut client).await, b"");
        assert!(begun.elapsed() <= 5 * SECOND + 2 * TICK, "round {round}");
        assert!(client.write_all(b"late").await.is_err());
    }
    let report = rig.stop().await;
    assert_eq!((report.connections, report.cut), (3, 3));
    assert_eq!((report.to_target, report.dropped), (24, 24));
}

#[tokio::test(start_paused = true)]
async fn stalled_connection_is_cut() {
    let faults = Faults { cut_every: Some(SECOND), ..Faults::default() };
    let mut rig = Rig::new(faults).await;
    let (mut client, _reads_nothing) = rig.pair().await;
    let flood = async { while client.write_all(&[1; 4096]).await.is_ok() {} };
    timeout(2 * SECOND, flood).await.expect("the connection is not cut");
    assert_eq!(rig.stop().await.cut, 1);
}

#[tokio::test(start_paused = true)]
async fn throttle_limits_the_rate_in_each_direction() {
    let throttle = Some(ByteSize::kib(1));
    let mut rig = Rig::new(Faults { throttle, ..Faults::default() }).await;
    let (mut client, mut target) = rig.pair().await;
    let begun = Instant::now();
    let sent = bytes(10 * 1024);
    let (there, back) = (sent.clone(), sent.clone());
    client.write_all(&there).await.unwrap();
    target.write_all(&back).await.unwrap();
    for second in 1..=10 {
        let to = second * 1024;
        assert_eq!(exact(&mut target, 1024).await, sent[to - 1024..to]);
        assert_eq!(exact(&mut client, 1024).await, sent[to - 1024..to]);
        let (elapsed, due) = (begun.elapsed(), SECOND * second as u32);
        // Bytes arrive in pieces of a twentieth of a second.
        assert!(elapsed >= due && elapsed <= due + 52 * TICK, "{elapsed:?} for {to} bytes");
    }
    // Idle time does not allow a burst.
    sleep(100 * SECOND).await;
    let begun = Instant::now();
    client.write_all(&there[..2048]).await.unwrap();
    assert_eq!(exact(&mut target, 2048).await, sent[..2048]);
    assert!(begun.elapsed() >= 2 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn delay_keeps_the_timing_of_bytes_and_of_the_end() {
    let mut rig = Rig::new(Faults { delay: 3 * SECOND, ..Faults::default() }).await;
    let (mut client, mut target) = rig.pair().await;
    let begun = Instant::now();
    let sending = async {
        for word in [b"one", b"two", b"six"] {
            client.write_all(word).await.unwrap();
            sleep(SECOND).await;
        }
        client.shutdown().await.unwrap();
        rest(&mut client).await
    };
    let receiving = async {
        for (word, at) in [(b"one", 3), (b"two", 4), (b"six", 5)] {
            assert_eq!(exact(&mut target, 3).await, word);
            let late = begun.elapsed() - at * SECOND;
            assert!(late <= 2 * TICK, "{late:?}");
        }
        assert_eq!(rest(&mut target).await, b"");
        assert!(begun.elapsed() >= 6 * SECOND && begun.elapsed() <= 6 * SECOND + 2 * TICK);
        drop(target);
    };
    let (answer, ()) = tokio::join!(sending, receiving);
    assert_eq!((answer.len(), begun.elapsed() >= 9 * SECOND), (0, true));
}

/// Sends bytes in both directions of two connections. Returns the bytes that arrive, and the count of
/// corrupted bytes.
async fn send_corrupted(seed: u64, pieces: usize) -> (Vec<Vec<u8>>, u64) {
    let mut rig = Rig::new(Faults { corrupt: 0.01, seed, ..Faults::default() }).await;
    let mut arrived = Vec::new();
    for _ in 0..2 {
        let (mut client, mut target) = rig.pair().await;
        let sent = bytes(10_000);
        let sending = async {
            for piece in sent.chunks(pieces) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let ((), there) = tokio::join!(sending, rest(&mut target));
        target.write_all(&sent).await.unwrap();
        drop(target);
        arrived.extend([there, rest(&mut client).await]);
    }
    (arrived, rig.stop().await.corrupted)
}

#[tokio::test(start_paused = true)]
async fn bits_are_flipped_in_the_same_places_for_the_same_seed() {
    let (arrived, corrupted) = send_corrupted(7, 10_000).await;
    let sent = bytes(10_000);
    let mut flipped = 0;
    for arrived in &arrived {
        assert_eq!(arrived.len(), sent.len());
        let bits = arrived.iter().zip(&sent).map(|(a, b)| (a ^ b).count_ones());
        assert!(bits.clone().all(|bits| bits <= 1));
        flipped += u64::from(bits.sum::<u32>());
    }
    assert!(flipped > 200 && flipped == corrupted, "{flipped}, {corrupted} counted");
    assert_eq!(send_corrupted(7, 17).await, (arrived.clone(), corrupted), "other read sizes");
    assert_ne!(send_corrupted(8, 10_000).await.0, arrived);
    for (n, one) in arrived.iter().enumerate() {
        assert!(!arrived[..n].contains(one), "two directions are corrupted in the same places");
    }
}

#[tokio::test(start_paused = true)]
async fn black_hole_reads_everything_and_passes_nothing_on() {
    let mut rig = Rig::new(Faults { blackhole: true, ..Faults::default() }).await;
    let (mut client, mut target) = rig.pair().await;
    // Any number of bytes is read, and so is the end.
    client.write_all(&bytes(1 << 20)).await.unwrap();
    drop(client);
    let silence = timeout(10_000 * SECOND, target.read_u8()).await;
    assert!(silence.is_err(), "{silence:?}");
    target.write_all(b"still there?").await.unwrap();
    // The first connection is still half open. A connection that both sides have ended is closed.
    let (client, second) = rig.pair().await;
    drop((client, second));
    sleep(SECOND).await;
    let report = rig.stop().await;
    assert_eq!((report.to_target, report.to_client), (0, 0));
    assert_eq!(report.dropped, (1 << 20) + 12);
    assert_eq!(rest(&mut target).await, b"", "stopping the proxy closes the connection");
}

#[tokio::test(start_paused = true)]
async fn black_hole_is_cut() {
    let faults = Faults { blackhole: true, cut_every: Some(SECOND), ..Faults::default() };
    let mut rig = Rig::new(faults).await;
    let (mut client, mut target) = rig.pair().await;
    let begun = Instant::now();
    assert_eq!((rest(&mut client).await, rest(&mut target).await), (vec![], vec![]));
    assert!(begun.elapsed() >= SECOND && begun.elapsed() <= SECOND + 2 * TICK);
}

#[tokio::test(start_paused = true)]
async fn disconnect_of_one_side_closes_the_other() {
    let mut rig = Rig::new(Faults::default()).await;
    let (client, mut target) = rig.pair().await;
    drop(client);
    assert_eq!(rest(&mut target).await, b"");
    let (mut client, target) = rig.pair().await;
    drop(target);
    assert_eq!(rest(&mut client).await, b"");
    // Writes of the remaining side fail and do not block.
    let writes = async { while client.write_all(&[1; 4096]).await.is_ok() {} };
    timeout(SECOND, writes).await.expect("writes do not fail");
}

#[tokio::test(start_paused = true)]
async fn last_bytes_of_a_disconnected_side_arrive_while_the_other_keeps_sending() {
    let mut rig = Rig::new(Faults::default()).await;
    let (mut client, mut target) = rig.pair().await;
    // This is more than the client's side buffers while it does not read.
    let last = bytes(150 * 1024);
    target.write_all(&last).await.unwrap();
    drop(target);
    let write = client.write_all(&[1; 1 << 20]);
    timeout(SECOND, write).await.expect("the write blocks").unwrap();
    assert!(rest(&mut client).await == last);
}

#[tokio::test(start_paused = true)]
async fn client_without_a_target_is_refused_and_the_next_is_served() {
    let registry = Registry::new();
    let (front, back) = (Endpoint::memory("front"), Endpoint::memory("back"));
    let options = Options::default();
    let chaos = Chaos::listen(&registry, &front, &back, &options, Faults::default());
    let chaos = chaos.await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let report = tokio::spawn(chaos.run(async {
        let _ = stopped.await;
    }));
    let mut client = registry.connect_bytes(&front, &options).await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
    let mut listener = registry.listen_bytes(&back, &options).await.unwrap();
    let mut client = registry.connect_bytes(&front, &options).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    assert_eq!(exact(&mut listener.accept().await.unwrap(), 5).await, b"hello");
    drop(stop);
    let report = report.await.unwrap();
    assert_eq!((report.connections, report.refused), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn connection_beyond_the_limit_is_closed() {
    let rig = Rig::new(Faults { blackhole: true, ..Faults::default() }).await;
    let Rig { registry, front, mut back, stop, report } = rig;
    let mut held = Vec::new();
    for _ in 0..1024 {
        held.push(registry.connect_bytes(&front, &Options::default()).await.unwrap());
        held.push(back.accept().await.unwrap());
    }
    let mut client = registry.connect_bytes(&front, &Options::default()).await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
    stop.send(()).unwrap();
    let report = report.await.unwrap();
    assert_eq!((report.connections, report.refused), (1025, 1));
}

#[tokio::test]
async fn invalid_faults_and_a_target_that_is_the_listener_are_refused() {
    let good = Faults::default();
    let a_day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(good.validate(), Ok(()));
    for (faults, field) in [
        (Faults { cut_every: Some(Duration::ZERO), ..good }, "cut_every"),
        (Faults { cut_every: Some(a_day + TICK), ..good }, "cut_every"),
        (Faults { delay: a_day + TICK, ..good }, "delay"),
        (Faults { throttle: Some(ByteSize::new(0)), ..good }, "throttle"),
        (Faults { corrupt: -0.1, ..good }, "corrupt"),
        (Faults { corrupt: 1.1, ..good }, "corrupt"),
        (Faults { corrupt: f64::NAN, ..good }, "corrupt"),
    ] {
        assert_eq!(faults.validate().unwrap_err().field, field);
    }
    let (registry, options) = (Registry::new(), Options::default());
    let [front, same]: [Endpoint; 2] = ["mem:a", "lines+mem:a"].map(|text| text.parse().unwrap());
    for (target, faults) in
        [(&same, good), (&"mem:b".parse().unwrap(), Faults { corrupt: 2.0, ..good })]
    {
        let listening = Chaos::listen(&registry, &front, target, &options, faults).await;
        let Err(error) = listening else { panic!("it listens") };
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig(_)), "{error}");
    }
    registry.listen_bytes(&front, &options).await.expect("the listener was not closed");
}
