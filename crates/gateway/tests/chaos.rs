//! Faults on purpose: each does what it says, at its time, and nothing else.
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
/// In virtual time: who would wait for ever fails at once.
const LIMIT: Duration = Duration::from_secs(1_000_000);
/// As fine as the runtime's clock is.
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

    /// The two ends of one connection.
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

/// Bytes that are not the same anywhere.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn without_faults_nobody_notices_it(
        there in prop::collection::vec(1..100_000_usize, 0..8),
        back in prop::collection::vec(1..100_000_usize, 0..8),
    ) {
        let [there, back] =
            [there, back].map(|pieces| pieces.into_iter().map(bytes).collect::<Vec<_>>());
        let report = block_on(async {
            let mut rig = Rig::new(Faults::default()).await;
            let (mut client, mut target) = rig.pair().await;
            let asks = async {
                for piece in &there {
                    client.write_all(piece).await.unwrap();
                }
                client.shutdown().await.unwrap();
                rest(&mut client).await
            };
            // It answers when the client's input has ended, so that one direction outlives the other.
            let answers = async {
                let heard = rest(&mut target).await;
                for piece in &back {
                    target.write_all(piece).await.unwrap();
                }
                target.shutdown().await.unwrap();
                heard
            };
            let (answer, heard) = tokio::join!(asks, answers);
            assert!(answer == back.concat() && heard == there.concat());
            rig.stop().await
        });
        let sent = |pieces: &[Vec<u8>]| pieces.iter().map(Vec::len).sum::<usize>() as u64;
        prop_assert_eq!((report.to_target, report.to_client), (sent(&there), sent(&back)));
        let others = (report.connections, report.refused, report.cut, report.dropped);
        prop_assert_eq!((others, report.corrupted), ((1, 0, 0, 0), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_holds_up_the_writer() {
    for (delay, most) in [(Duration::ZERO, 256 * 1024), (SECOND, 1200 * 1024)] {
        let mut rig = Rig::new(Faults { delay, ..Faults::default() }).await;
        let (mut client, _target) = rig.pair().await;
        let mut taken = 0;
        while let Ok(written) = timeout(100 * SECOND, client.write(&[7; 4096])).await {
            taken += written.unwrap();
            assert!(taken <= most, "{taken} bytes are held for nobody");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_closes_both_sides_at_its_time_in_the_middle_of_what_is_said() {
    let cut_every = Some(5 * SECOND);
    // Of what is held back at the cut nothing arrives.
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
async fn nothing_that_stands_still_outlives_the_cut() {
    let faults = Faults { cut_every: Some(SECOND), ..Faults::default() };
    let mut rig = Rig::new(faults).await;
    let (mut client, _reads_nothing) = rig.pair().await;
    let flood = async { while client.write_all(&[1; 4096]).await.is_ok() {} };
    timeout(2 * SECOND, flood).await.expect("it is cut");
    assert_eq!(rig.stop().await.cut, 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_go_on_at_the_rate_each_way_and_no_faster() {
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
        // They come in a twentieth of a second's worth.
        assert!(elapsed >= due && elapsed <= due + 52 * TICK, "{elapsed:?} for {to} bytes");
    }
    // Silence is not saved up.
    sleep(100 * SECOND).await;
    let begun = Instant::now();
    client.write_all(&there[..2048]).await.unwrap();
    assert_eq!(exact(&mut target, 2048).await, sent[..2048]);
    assert!(begun.elapsed() >= 2 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn bytes_and_the_end_come_later_by_the_delay_and_in_their_rhythm() {
    let mut rig = Rig::new(Faults { delay: 3 * SECOND, ..Faults::default() }).await;
    let (mut client, mut target) = rig.pair().await;
    let begun = Instant::now();
    let speaks = async {
        for word in [b"one", b"two", b"six"] {
            client.write_all(word).await.unwrap();
            sleep(SECOND).await;
        }
        client.shutdown().await.unwrap();
        rest(&mut client).await
    };
    let hears = async {
        for (word, at) in [(b"one", 3), (b"two", 4), (b"six", 5)] {
            assert_eq!(exact(&mut target, 3).await, word);
            let late = begun.elapsed() - at * SECOND;
            assert!(late <= 2 * TICK, "{late:?}");
        }
        assert_eq!(rest(&mut target).await, b"");
        assert!(begun.elapsed() >= 6 * SECOND && begun.elapsed() <= 6 * SECOND + 2 * TICK);
        drop(target);
    };
    let (heard, ()) = tokio::join!(speaks, hears);
    assert_eq!((heard.len(), begun.elapsed() >= 9 * SECOND), (0, true));
}

/// What arrives of the bytes through two connections, and how much of it was spoilt.
async fn spoilt(seed: u64, pieces: usize) -> (Vec<Vec<u8>>, u64) {
    let mut rig = Rig::new(Faults { corrupt: 0.01, seed, ..Faults::default() }).await;
    let mut arrived = Vec::new();
    for _ in 0..2 {
        let (mut client, mut target) = rig.pair().await;
        let sent = bytes(10_000);
        let speaks = async {
            for piece in sent.chunks(pieces) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let ((), there) = tokio::join!(speaks, rest(&mut target));
        target.write_all(&sent).await.unwrap();
        drop(target);
        arrived.extend([there, rest(&mut client).await]);
    }
    (arrived, rig.stop().await.corrupted)
}

#[tokio::test(start_paused = true)]
async fn bits_are_flipped_in_the_same_places_for_the_same_seed() {
    let (arrived, corrupted) = spoilt(7, 10_000).await;
    let sent = bytes(10_000);
    let mut flipped = 0;
    for arrived in &arrived {
        assert_eq!(arrived.len(), sent.len());
        let bits = arrived.iter().zip(&sent).map(|(a, b)| (a ^ b).count_ones());
        assert!(bits.clone().all(|bits| bits <= 1));
        flipped += u64::from(bits.sum::<u32>());
    }
    assert!(flipped > 200 && flipped == corrupted, "{flipped}, {corrupted} counted");
    assert_eq!(spoilt(7, 17).await, (arrived.clone(), corrupted), "cut otherwise on the way");
    assert_ne!(spoilt(8, 10_000).await.0, arrived);
    for (n, one) in arrived.iter().enumerate() {
        assert!(!arrived[..n].contains(one), "two ways are spoilt alike");
    }
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_takes_everything_and_passes_nothing_on() {
    let mut rig = Rig::new(Faults { blackhole: true, ..Faults::default() }).await;
    let (mut client, mut target) = rig.pair().await;
    // However much it is, and the end.
    client.write_all(&bytes(1 << 20)).await.unwrap();
    drop(client);
    let silence = timeout(10_000 * SECOND, target.read_u8()).await;
    assert!(silence.is_err(), "{silence:?}");
    target.write_all(b"still there?").await.unwrap();
    // Half of it is still open: that of whoever has ended it on both sides is not.
    let (client, second) = rig.pair().await;
    drop((client, second));
    sleep(SECOND).await;
    let report = rig.stop().await;
    assert_eq!((report.to_target, report.to_client), (0, 0));
    assert_eq!(report.dropped, (1 << 20) + 12);
    assert_eq!(rest(&mut target).await, b"", "the end of it all ends it");
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_cut_too() {
    let faults = Faults { blackhole: true, cut_every: Some(SECOND), ..Faults::default() };
    let mut rig = Rig::new(faults).await;
    let (mut client, mut target) = rig.pair().await;
    let begun = Instant::now();
    assert_eq!((rest(&mut client).await, rest(&mut target).await), (vec![], vec![]));
    assert!(begun.elapsed() >= SECOND && begun.elapsed() <= SECOND + 2 * TICK);
}

#[tokio::test(start_paused = true)]
async fn when_one_side_is_gone_the_other_is_ended() {
    let mut rig = Rig::new(Faults::default()).await;
    let (client, mut target) = rig.pair().await;
    drop(client);
    assert_eq!(rest(&mut target).await, b"");
    let (mut client, target) = rig.pair().await;
    drop(target);
    assert_eq!(rest(&mut client).await, b"");
    // It goes on talking to nobody: it is told, and not held up.
    let talk = async { while client.write_all(&[1; 4096]).await.is_ok() {} };
    timeout(SECOND, talk).await.expect("it is told");
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_one_that_is_gone_arrive_while_the_other_talks_on() {
    let mut rig = Rig::new(Faults::default()).await;
    let (mut client, mut target) = rig.pair().await;
    // More than the client's side takes while it does not read.
    let words = bytes(150 * 1024);
    target.write_all(&words).await.unwrap();
    drop(target);
    let talk = client.write_all(&[1; 1 << 20]);
    timeout(SECOND, talk).await.expect("it is not held up").unwrap();
    assert!(rest(&mut client).await == words);
}

#[tokio::test(start_paused = true)]
async fn without_a_target_the_client_is_turned_away_and_the_next_is_served() {
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
async fn too_many_at_once_are_turned_away() {
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
async fn faults_out_of_bounds_and_a_target_that_is_the_listener_are_refused() {
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
    registry.listen_bytes(&front, &options).await.expect("nothing is left listening");
}
