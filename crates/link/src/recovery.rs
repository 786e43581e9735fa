//! When a line that was lost is sought again, and when no more.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tieline_proto::{Backoff, BackoffConfig, RestartPolicy, Restarts, Verdict};
use tieline_transport::{CloseReason, ErrorKind, GivenUp, TransportError, TransportKind};
use tokio::time::Instant;

/// How a line comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// As a child process does: after the ends that the policy names, five times within ten seconds.
    /// With one more it is [given up](CloseReason::GivenUp).
    Restart(RestartPolicy),
    /// As a connection to a server does: after every end, for as long as it takes.
    Reconnect(BackoffConfig),
}

impl Recovery {
    /// What suits a transport: a child process is started again after a failure, what is on this
    /// machine is sought at once, and all else with patience. Own stdin and stdout cannot come back.
    pub fn of(kind: TransportKind) -> Self {
        match kind {
            TransportKind::PROCESS => Self::Restart(RestartPolicy::OnFailure),
            TransportKind::STDIO => Self::Restart(RestartPolicy::Never),
            TransportKind::UNIX | TransportKind::PIPE | TransportKind::MEMORY => {
                Self::Reconnect(BackoffConfig::LOCAL)
            }
            // A WebSocket over a Unix socket is as near.
            kind if kind.as_str().ends_with("-unix") => Self::Reconnect(BackoffConfig::LOCAL),
            _ => Self::Reconnect(BackoffConfig::REMOTE),
        }
    }
}

/// A connection that lived so long and carried a message was well.
pub(crate) const WELL_AFTER: Duration = Duration::from_secs(10);

/// What is to be done about a loss.
pub(crate) enum Next {
    TryAfter(Duration),
    End(CloseReason),
}

/// Decides after each loss and each failed attempt.
pub(crate) struct Decider {
    machine: Machine,
    begun: Instant,
}

enum Machine {
    Restarts(Restarts),
    Backoff(Backoff),
}

impl Decider {
    pub(crate) fn new(recovery: Recovery) -> Self {
        let machine = match recovery {
            Recovery::Restart(policy) => Machine::Restarts(Restarts::new(policy)),
            Recovery::Reconnect(config) => Machine::Backoff(Backoff::new(config)),
        };
        Self { machine, begun: Instant::now() }
    }

    /// A line was lost that had come back `restarts` times before.
    pub(crate) fn lost(
        &mut self,
        cause: &CloseReason,
        restarts: u64,
        lived: Duration,
        carried: bool,
    ) -> Next {
        match &mut self.machine {
            Machine::Backoff(backoff) => {
                if carried && lived >= WELL_AFTER {
                    backoff.reset();
                }
                Next::TryAfter(backoff.next(random()))
            }
            Machine::Restarts(machine) => {
                let failure = !cause.is_clean();
                match machine.ended(self.begun.elapsed(), lived, failure, random()) {
                    Verdict::Restart { after } => Next::TryAfter(after),
                    Verdict::Leave => Next::End(cause.clone()),
                    Verdict::Failed => {
                        let last = cause.clone();
                        Next::End(CloseReason::GivenUp(Arc::new(GivenUp { restarts, last })))
                    }
                }
            }
        }
    }

    /// An attempt has failed, and the line had come back `restarts` times before.
    pub(crate) fn failed(&mut self, error: TransportError, restarts: u64) -> (CloseReason, Next) {
        let permanent = is_permanent(&error);
        let cause = CloseReason::Unreachable(error);
        let next = match permanent {
            true => Next::End(cause.clone()),
            false => self.lost(&cause, restarts, Duration::ZERO, false),
        };
        (cause, next)
    }
}

/// Whether another attempt will fail as this one did, unless somebody changes something by hand.
fn is_permanent(error: &TransportError) -> bool {
    // A file that is being replaced, a network that comes and goes: what is unknown may pass.
    let may_pass =
        matches!(error.kind(), ErrorKind::Io | ErrorKind::LaunchFailed | ErrorKind::Closed(_));
    !may_pass && !error.is_retryable()
}

/// Evenly spread from 0 to 1. Each of the standard library's hashers begins with a random key.
pub(crate) fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_this_machine_is_sought_at_once_and_a_child_started_again_after_a_failure() {
        let local = Recovery::Reconnect(BackoffConfig::LOCAL);
        for (kind, expected) in [
            (TransportKind::UNIX, local),
            (TransportKind::PIPE, local),
            (TransportKind::MEMORY, local),
            (TransportKind::TCP, Recovery::Reconnect(BackoffConfig::REMOTE)),
            (TransportKind::custom("other"), Recovery::Reconnect(BackoffConfig::REMOTE)),
            (TransportKind::PROCESS, Recovery::Restart(RestartPolicy::OnFailure)),
            (TransportKind::STDIO, Recovery::Restart(RestartPolicy::Never)),
        ] {
            assert_eq!(Recovery::of(kind), expected, "{kind}");
        }
    }
}
