//! Every claim about speed, as a ratio: tieline beside what does the same work without it.
//!
//! ```text
//!   a row ──▶ two or more sides, each a connection to a peer of its own in another process
//!                 │
//!                 ▼
//!   round after round, one side after the other (A B A B …)      compare.rs
//!                 │
//!                 ▼
//!   the ratio of each round ──▶ median and quartiles ──▶ a line of the table
//!                                        stats.rs           report.rs
//! ```
//!
//! The peer is this same program with a hidden subcommand (`peer.rs`), or, where tieline stands
//! beside another library, a program of `fixtures/peers` at both ends. Both processes run on tokio's
//! current-thread runtime, whatever the side, and tieline with its defaults.
//!
//! A new row is a module in `rows/` and a line in the table there.

#[cfg(unix)]
mod compare;
#[cfg(unix)]
mod machine;
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
fn main() -> std::process::ExitCode {
    run::main()
}

#[cfg(not(unix))]
fn main() -> std::process::ExitCode {
    eprintln!("tieline-bench: all rows of now need Unix sockets");
    std::process::ExitCode::FAILURE
}
