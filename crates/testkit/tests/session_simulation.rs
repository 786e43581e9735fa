//! In sessions over connections that break at any byte, no message is lost, duplicated or reordered, and
//! the ends' statements about delivery are true. `TIELINE_SOAK=1` performs 100,000 runs of 1,000
//! messages (this takes minutes with `--release`). `TIELINE_SEED=seed:messages` performs a single run
//! and prints its events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tieline_testkit::session_sim::Simulation;

/// The number of runs, and the number of messages in each, in both directions together.
const SAMPLE: (u64, usize) = (2_000, 100);
const SOAK: (u64, usize) = (100_000, 1_000);

#[test]
fn session_keeps_its_guarantees_wherever_connections_break() {
    if let Some(seed) = std::env::var_os("TIELINE_SEED") {
        let seed = seed.to_str().and_then(|it| it.split_once(':')).expect("seed:messages");
        let (seed, messages) = (seed.0.parse().expect("a seed"), seed.1.parse().expect("a number"));
        let mut simulation = Simulation::new(messages);
        simulation.tells = true;
        simulation.run(seed).unwrap_or_else(|broken| panic!("{broken}"));
        return;
    }
    let is_long = std::env::var_os("TIELINE_SOAK").is_some();
    let (seeds, messages) = if is_long { SOAK } else { SAMPLE };
    let begun = Instant::now();
    let all = run(seeds, messages);
    let seconds = begun.elapsed().as_secs_f64();

    println!("{:#?}\n{} cuts inside frames:\n{}", all.totals, all.coverage.cuts(), all.coverage);
    let (runs, delivered) = (all.totals.runs as f64, all.totals.delivered as f64);
    println!("{seconds:.1} s: {:.0} runs/s, {:.0} messages/s", runs / seconds, delivered / seconds);
    let missing = all.coverage.missing();
    assert!(missing.is_empty(), "no cut happened here:\n{}", missing.join("\n"));
    let totals = all.totals;
    assert_eq!(totals.repeated, 0, "each side knows what the other has");
    let restarts = [totals.with_memory, totals.rolled_back, totals.without_memory];
    let seen = [totals.resumed, totals.fenced, totals.ended].into_iter().chain(restarts);
    assert!(seen.into_iter().all(|count| count > 0), "{totals:?}");
    assert!(totals.complete > seeds * 7 / 10, "{totals:?}");
}

/// Runs all seeds below `seeds`, on one thread per processor.
fn run(seeds: u64, messages: usize) -> Simulation {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut simulation = Simulation::new(messages);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return simulation;
            }
            simulation.run(seed).unwrap_or_else(|broken| panic!("{broken}"));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Simulation::new(0);
        for thread in threads {
            let part = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.coverage.add(&part.coverage);
            all.totals.add(&part.totals);
        }
        all
    })
}
