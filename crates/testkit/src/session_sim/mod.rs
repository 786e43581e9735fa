//! Two ends of a session on a virtual network with a virtual clock.
//!
//! ```text
//!   Client: Ticket + Session ══ Network: delays, cuts, half-open ══ Server: Lease + Session, a table
//!        │                                                                   │
//!        └──────────────── Record: what really was received ─────────────────┘
//! ```
//!
//! The machines and the framing are the real ones; everything else is made up from a seed, which
//! decides all of it. The connections break at any byte in either direction, one end learns it late
//! or never, a connection that was given up goes on delivering, greetings come late, and either end
//! is started again, with its memory or without. A run fails if a message is lost, doubled or out of
//! its order, if what an end says of what was delivered is not true, or if it comes to rest before
//! all is delivered.
//!
//! Memory that is kept is that of the crash, or of an earlier moment behind which nothing left the
//! process. In a tenth of the runs it is that of an earlier moment behind which something did: then
//! the session goes on without a contradiction, or is refused.

mod checks;
mod client;
mod coverage;
mod end;
mod faults;
mod messages;
mod network;

mod server;
mod world;

use std::fmt;

pub use coverage::{Coverage, Totals};
use messages::Messages;
use world::World;

/// Runs seeds, one after the other, and counts what happened in them.
#[derive(Debug, Default)]
pub struct Simulation {
    messages: Messages,
    /// Where cuts have fallen.
    pub coverage: Coverage,
    /// What happened.
    pub totals: Totals,
    /// Whether each event is told on stderr.
    pub tells: bool,
}

impl Simulation {
    /// One whose runs have up to `messages` messages in a session.
    pub fn new(messages: usize) -> Self {
        Self { messages: Messages::new(messages), ..Self::default() }
    }

    /// One run: everything in it follows from the seed and the number of messages.
    ///
    /// # Errors
    /// A promise was broken.
    pub fn run(&mut self, seed: u64) -> Result<(), Broken> {
        let _told_if_it_panics = Announced { seed, messages: self.messages.most() };
        let (coverage, totals) = (&mut self.coverage, &mut self.totals);
        let outcome = World::new(seed, &self.messages, self.tells, coverage, totals).run();
        outcome.map_err(|what| Broken { seed, messages: self.messages.most(), what })
    }
}

/// A promise that was broken, and how to see it again.
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
        "again: TIELINE_SEED={seed}:{messages} cargo test -p tieline-testkit --test session_simulation"
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
