//! When a lost line is reconnected, and when the link gives up.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tieline_proto::{Backoff, BackoffConfig, RestartPolicy, Restarts, Verdict};
use tieline_transport::{
    CloseReason, ConnectionInfo, ErrorKind, GivenUp, TransportError, TransportKind,
};
use tokio::time::Instant;

/// How a link recovers from a lost line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// Restarts a child process after the exits that the policy names, at most five times within ten
    /// seconds. After that the link ends as [given up](CloseReason::GivenUp).
    Restart(RestartPolicy),
    /// Reconnects to a server after every loss, without a limit. If the server refuses the client for a reason
    /// that is [permanent](tieline_proto::FrameError::is_permanent), such as its framing, the link ends.
    Reconnect(BackoffConfig),
}

impl Recovery {
    /// Returns the default recovery for a line: a child process is restarted after a failure; an
    /// endpoint [on this machine](tieline_transport::Endpoint::is_on_this_machine) is reconnected at
    /// once; any other endpoint is reconnected after the waits of [`BackoffConfig::REMOTE`]. The
    /// process's own stdin and stdout cannot be reopened.
    pub fn suiting(line: &ConnectionInfo) -> Self {
        match line.kind {
            TransportKind::PROCESS => Self::Restart(RestartPolicy::OnFailure),
            TransportKind::STDIO => Self::Restart(RestartPolicy::Never),
            _ if line.endpoint.is_on_this_machine() => Self::Reconnect(BackoffConfig::LOCAL),
            _ => Self::Reconnect(BackoffConfig::REMOTE),
        }
    }
}

/// How long a connection that has carried a message must last to be considered healthy.
pub(crate) const WELL_AFTER: Duration = Duration::from_secs(10);

/// What to do after a loss.
pub(crate) enum Next {
    TryAfter(Duration),
    End(CloseReason),
}

/// Decides what to do after each loss and each failed attempt.
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

    /// Returns what to do after the loss of a line that had been reconnected `restarts` times.
    pub(crate) fn lost(
        &mut self,
        cause: &CloseReason,
        restarts: u64,
        lived: Duration,
        carried: bool,
    ) -> Next {
        match &mut self.machine {
            Machine::Backoff(_) if is_refused(cause) => Next::End(cause.clone()),
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

    /// Returns what to do after a failed attempt. The line had been reconnected `restarts` times.
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

/// Returns whether the other side does not serve this client, and will not serve it over the next line either.
fn is_refused(cause: &CloseReason) -> bool {
    matches!(cause, CloseReason::Protocol(error) if error.is_permanent())
}

/// Returns whether further attempts will fail in the same way until a person intervenes.
fn is_permanent(error: &TransportError) -> bool {
    // Unclassified errors may be temporary, for example if a file is being replaced or a network is
    // down.
    let may_pass = match error.kind() {
        // This side ended the line because of one of its own limits.
        ErrorKind::Closed(CloseReason::Overrun | CloseReason::NoMemory(_)) => false,
        ErrorKind::Closed(reason) if is_refused(reason) => false,
        kind => matches!(kind, ErrorKind::Io | ErrorKind::LaunchFailed | ErrorKind::Closed(_)),
    };
    !may_pass && !error.is_retryable()
}

/// Returns a random number, uniformly distributed between 0 and 1. It comes from the standard library's
/// hashers, which have random keys.
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
    fn default_recovery_suits_the_endpoint() {
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
