//! When a line that was lost is sought again, and when no more.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tieline_proto::{Backoff, BackoffConfig, RestartPolicy, Restarts, Verdict};
use tieline_transport::{
    CloseReason, ConnectionInfo, ErrorKind, GivenUp, TransportError, TransportKind,
};
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
    /// The recovery that suits a line: a child process is started again after a failure, an endpoint
    /// [on this machine](tieline_transport::Endpoint::is_on_this_machine) is retried at once, any other with
    /// growing pauses. Own stdin and stdout cannot be reopened.
    pub fn suiting(line: &ConnectionInfo) -> Self {
        match line.kind {
            TransportKind::PROCESS => Self::Restart(RestartPolicy::OnFailure),
            TransportKind::STDIO => Self::Restart(RestartPolicy::Never),
            _ if line.endpoint.is_on_this_machine() => Self::Reconnect(BackoffConfig::LOCAL),
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
    use tieline_transport::{Capabilities, Channel, ControlBuilder, memory_pair};

    const LOCAL: Recovery = Recovery::Reconnect(BackoffConfig::LOCAL);
    const REMOTE: Recovery = Recovery::Reconnect(BackoffConfig::REMOTE);
    const RESTART: Recovery = Recovery::Restart(RestartPolicy::OnFailure);
    const NEVER: Recovery = Recovery::Restart(RestartPolicy::Never);

    #[test]
    fn what_is_on_this_machine_is_sought_at_once_and_a_child_started_again_after_a_failure() {
        for (kind, endpoint, expected) in [
            (TransportKind::UNIX, "unix:/run/a.sock", LOCAL),
            (TransportKind::PIPE, "pipe:a", LOCAL),
            (TransportKind::MEMORY, "mem:a", LOCAL),
            (TransportKind::PROCESS, "exec:cat", RESTART),
            (TransportKind::STDIO, "stdio:", NEVER),
            (TransportKind::TCP, "tcp:127.0.0.1:1", LOCAL),
            (TransportKind::TCP, "tcp:[::1]:1", LOCAL),
            (TransportKind::TCP, "tcp:localhost:1", LOCAL),
            (TransportKind::TCP, "tcp:192.0.2.1:1", REMOTE),
            (TransportKind::TCP, "tcp:example.org:1", REMOTE),
            (TransportKind::custom("ws"), "ws://127.0.0.1:1/ws", LOCAL),
            (TransportKind::custom("wss"), "resume+wss://localhost", LOCAL),
            (TransportKind::custom("http"), "http://[::1]/sse", LOCAL),
            (TransportKind::custom("ws-unix"), "ws-unix:/run/a.sock", LOCAL),
            (TransportKind::custom("ws"), "ws://example.org/ws", REMOTE),
            (TransportKind::custom("https"), "resume+https://192.0.2.1/sse", REMOTE),
            (TransportKind::custom("other"), "other:place", REMOTE),
        ] {
            let line = ControlBuilder {
                kind,
                endpoint: endpoint.parse().unwrap(),
                peer: None,
                capabilities: Capabilities::default(),
                profile: memory_pair().0.control().profile(),
                backing: Arc::new(()),
            };
            assert_eq!(Recovery::suiting(&line.build().info()), expected, "{endpoint}");
        }
    }
}
