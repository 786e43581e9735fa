//! A simulation of two ends of a session on a virtual network with a virtual clock.
//!
//! ```text
//!   Client: Ticket + Session ══ Network: delays, cuts, half-open ══ Server: Lease + Session, a table
//!        │                                                                   │
//!        └──────────────── Record: what really was received ─────────────────┘
//! ```
//!
//! The state machines and the framing are the real ones. All other behavior is generated from a seed.
//! Connections break at any byte in either direction, an end notices this late or never, an abandoned
//! connection continues to deliver, greetings arrive late, and either end restarts, with or without its
//! memory. A run fails if a message is lost, duplicated or reordered, if an end makes a false statement
//! about delivery, or if no events remain before all messages are delivered.
//!
//! A restart with memory uses the memory as it was at the crash, or at an earlier moment after which no
//! data left the process. In a tenth of the runs, data did leave the process after that moment. The
//! session then continues consistently or is refused.

mod checks;
mod client;
mod coverage;
mod direction;
mod end;
mod faults;
mod memory;
mod messages;
mod network;
mod server;
mod world;

use std::fmt;

pub use coverage::{Coverage, Totals};
use messages::Messages;
use world::World;

/// Runs seeds one after the other and counts the events.
#[derive(Debug, Default)]
pub struct Simulation {
    messages: Messages,
    /// The positions of the cuts.
    pub coverage: Coverage,
    /// Counts of the events.
    pub totals: Totals,
    /// Whether each event is printed to stderr.
    pub tells: bool,
}

impl Simulation {
    /// Creates a simulation whose sessions have up to `messages` messages.
    pub fn new(messages: usize) -> Self {
        Self { messages: Messages::new(messages), ..Self::default() }
    }

    /// Executes one run, which is determined by the seed and the number of messages.
    ///
    /// # Errors
    /// Fails if the session violates a guarantee.
    pub fn run(&mut self, seed: u64) -> Result<(), Broken> {
        let _told_if_it_panics = Announced { seed, messages: self.messages.most() };
        let (coverage, totals) = (&mut self.coverage, &mut self.totals);
        let outcome = World::new(seed, &self.messages, self.tells, coverage, totals).run();
        outcome.map_err(|what| Broken { seed, messages: self.messages.most(), what })
    }
}

/// A violation of a guarantee, with the command that reproduces it.
#[derive(Debug)]
pub struct Broken {
    seed: u64,
    messages: usize,
    what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.what, replay(self.seed, self.messages))
    }
}

fn replay(seed: u64, messages: usize) -> String {
    format!(
        "reproduce with: TIELINE_SEED={seed}:{messages} cargo test -p tieline-testkit --test session_simulation"
    )
}

struct Announced {
    seed: u64,
    messages: usize,
}

impl Drop for Announced {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", replay(self.seed, self.messages));
        }
    }
}
