//! Log lines that clients can cause: at most one a minute for each cause, so that they cannot fill the log.

use std::fmt;
use std::time::Instant;

use tieline_transport::{Endpoint, WarnThrottle};

use super::access::Refused;
use super::count::Cause;

/// Logs refused requests.
pub(super) struct RefusalLog([(Cause, WarnThrottle); Cause::ALL.len()]);

impl Default for RefusalLog {
    fn default() -> Self {
        let throttle = |cause: Cause| {
            WarnThrottle::new(move |count| {
                tracing::info!(count, "more requests were refused ({})", cause.name());
            })
        };
        Self(Cause::ALL.map(|cause| (cause, throttle(cause))))
    }
}

impl RefusalLog {
    pub(super) fn log(&self, endpoint: &Endpoint, refused: &Refused) {
        let Refused { status, cause, text } = refused;
        let status = status.as_u16();
        let throttle = self.0.iter().find(|(it, _)| it == cause);
        match throttle.and_then(|(_, throttle)| throttle.admit(Instant::now())) {
            Some(unreported) => {
                tracing::info!(%endpoint, status, unreported, "request refused: {text}");
            }
            None => tracing::debug!(%endpoint, status, "request refused: {text}"),
        }
    }
}

/// Logs messages that were lost.
pub(super) struct LostLog(WarnThrottle);

impl Default for LostLog {
    fn default() -> Self {
        Self(WarnThrottle::new(|count| {
            tracing::warn!(count, "more messages for web clients were lost");
        }))
    }
}

impl LostLog {
    pub(super) fn log(&self, count: u64, why: &dyn fmt::Display) {
        match self.0.admit_many(count, Instant::now()) {
            Some(unreported) => {
                tracing::warn!(count, unreported, "messages for a web client were lost: {why}");
            }
            None => tracing::debug!(count, "messages for a web client were lost: {why}"),
        }
    }
}
