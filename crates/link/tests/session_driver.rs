//! The real ends of a session over a network that is not there, in virtual time.
#![allow(clippy::unwrap_used)]

#[path = "support/drive.rs"]
mod drive;

use drive::{Run, Totals};

/// By default so many seeds; with `TIELINE_SOAK=1` a hundred times as many.
const SEEDS: u64 = 200;
const SOAK: u64 = 20_000;

#[test]
fn whatever_the_network_does_all_arrives_once_in_order_or_what_is_said_of_it_is_true() {
    let mut totals = Totals::default();
    if let Ok(seed) = std::env::var("TIELINE_SEED") {
        return Run::of(seed.parse().unwrap()).run(&mut totals);
    }
    let seeds = if std::env::var_os("TIELINE_SOAK").is_some() { SOAK } else { SEEDS };
    for seed in 0..seeds {
        Run::of(seed).run(&mut totals);
    }
    println!("{totals:?}");
    // Else nothing was tried.
    let Totals { events, resets, lost, complete, .. } = totals;
    assert!(complete > seeds / 2 && resets > 0 && lost > 0, "{totals:?}");
    assert!(events.cuts > seeds && events.ghosts > 0 && events.late > 0, "{totals:?}");
}
