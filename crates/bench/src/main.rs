//! Benchmarks as ratios: tieline compared with the same work done without it.
//!
//! ```text
//!   a row ──▶ two or more sides, each a connection to its own peer in another process
//!                 │
//!                 ▼
//!   round after round, one side after the other (A B A B …)      compare.rs
//!                 │
//!                 ▼
//!   the ratio of each round ──▶ median and quartiles ──▶ a line of the table
//!                                        stats.rs           report.rs
//! ```
//!
//! The peer is this same program with a hidden subcommand (`peer.rs`). For comparisons with other
//! libraries, a program of `fixtures/peers` runs at both ends. Every process uses Tokio's current-thread
//! runtime, and tieline its defaults.
//!
//! To add a row, add a module in `rows/` and an entry in the table there.

#[cfg(unix)]
mod compare;
#[cfg(unix)]
mod machine;
#[cfg(unix)]
mod matrix;
#[cfg(unix)]
mod options;
#[cfg(unix)]
mod peer;
#[cfg(unix)]
mod pin;
#[cfg(unix)]
mod report;
#[cfg(unix)]
mod rows;
#[cfg(unix)]
mod run;
#[cfg(unix)]
mod running;
#[cfg(unix)]
mod stats;
#[cfg(unix)]
mod valgrind;
#[cfg(unix)]
mod workspace;

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    run::main()
}

#[cfg(not(unix))]
fn main() -> std::process::ExitCode {
    eprintln!("tieline-bench: all rows need Unix sockets");
    std::process::ExitCode::FAILURE
}
