//! Finds programs that run but no longer answer.
//!
//! ```text
//!   line ── ProbedSender ───┐
//!                           ├── the program's channel      pings are added below the line, and their answers
//!   line ── ProbedReceiver ─┘                              are taken out again
//! ```
//!
//! A program that does not answer is stopped in stages. Its line then ends with the reason, and whatever restarts
//! programs does the rest.

mod halves;
mod machine;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use tieline_proto::jsonrpc::{Dialect, PingRules};
use tieline_transport::{BoxChannel, BoxFuture, DynConnector, TransportError};

use self::machine::Machine;

/// Returns a connector to programs that are pinged every `interval`, or `target` itself if there is no interval or
/// the dialect has no ping.
pub(crate) fn probed(
    target: Arc<dyn DynConnector>,
    dialect: Option<Dialect>,
    interval: Option<Duration>,
) -> Arc<dyn DynConnector> {
    let rules = dialect.and_then(|dialect| Some((dialect, dialect.ping?)));
    match rules.zip(interval) {
        Some(((dialect, rules), interval)) => Arc::new(Probed { target, dialect, rules, interval }),
        None => target,
    }
}

struct Probed {
    target: Arc<dyn DynConnector>,
    dialect: Dialect,
    rules: &'static PingRules,
    interval: Duration,
}

impl DynConnector for Probed {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async {
            let channel = self.target.connect().await?;
            // Clients cannot guess the ids of the pings.
            let [first, second] = [0, 1].map(|number| RandomState::new().hash_one(number));
            let prefix = format!("tieline-probe-{:016x}{:016x}-", first, second);
            let machine = Machine::new(self.dialect, self.rules, prefix);
            Ok(halves::probe(channel, machine, self.interval))
        })
    }
}
