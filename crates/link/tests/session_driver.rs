//! The real ends of a session over a simulated network, in virtual time.
#![allow(clippy::unwrap_used)]

#[path = "support/drive.rs"]
mod drive;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use drive::{Run, Totals};

/// The default number of seeds.
const SEEDS: u64 = 200;
/// The number of seeds with `TIELINE_SOAK=1`, which runs on all processors.
const SOAK: u64 = 100_000;

#[test]
fn messages_arrive_once_in_order_or_the_loss_is_reported_correctly_on_any_network() {
    if let Some(seed) = number("TIELINE_SEED") {
        return Run::of(seed).run(&mut Totals::default());
    }
    let (seeds, threads) = match std::env::var_os("TIELINE_SOAK") {
        Some(_) => (SOAK, std::thread::available_parallelism().map_or(1, usize::from)),
        None => (SEEDS, 1),
    };
    // The first seed and the duration may be set.
    let first = number("TIELINE_FIRST_SEED").unwrap_or(0);
    let limit = number("TIELINE_SECONDS").map_or(Duration::MAX, Duration::from_secs);
    let begun = Instant::now();
    let next = AtomicU64::new(first);
    let work = || {
        let mut totals = Totals::default();
        while begun.elapsed() < limit {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                break;
            }
            Run::of(seed).run(&mut totals);
        }
        totals
    };
    let totals = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Totals::default();
        for thread in threads {
            all.add(&thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        all
    });
    let (runs, seconds) = (totals.runs, begun.elapsed().as_secs_f64());
    println!("{totals:?}\n{runs} seeds from {first} on in {seconds:.1} s");
    // Check that the runs covered the interesting cases.
    let Totals { events, resets, lost, complete, .. } = totals;
    assert!(complete > runs / 2 && resets > 0 && lost > 0, "{totals:?}");
    assert!(events.cuts > runs && events.ghosts > 0 && events.late > 0, "{totals:?}");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|it| it.parse().unwrap())
}
