//! Decides whether a far side works, for the circuit breaker of its server.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::far_breaker::FarPermit;
use crate::{BridgeEnd, BridgeReport};

/// How long a far side must have run without a restart to be considered working.
const WORKS_AFTER: Duration = Duration::from_secs(1);

/// Waits for the line, and reports to the circuit breaker whether the far side works: whether it has
/// sent something or has run for a while. After five consecutive failures, no more are started for a
/// while. A failure is not reported if the client had sent something or ended its input: the client may
/// have caused it, and must not shut out others.
pub(crate) async fn judge(
    permit: FarPermit,
    starts: &AtomicU64,
    mut bridged: Pin<&mut impl Future<Output = BridgeReport>>,
) -> BridgeReport {
    tokio::select! {
        () = tokio::time::sleep(WORKS_AFTER) => {
            let undecided = match starts.load(Relaxed) {
                1 => {
                    permit.passed();
                    None
                }
                _ => Some(permit),
            };
            let report = bridged.await;
            undecided.into_iter().for_each(|permit| decide(permit, &report));
            report
        }
        report = &mut bridged => {
            decide(permit, &report);
            report
        }
    }
}

fn decide(permit: FarPermit, report: &BridgeReport) {
    match &report.end {
        _ if report.to_near > 0 => permit.passed(),
        BridgeEnd::Far(reason)
            if report.to_far == 0 && !report.near_was_done && !reason.is_clean() =>
        {
            permit.failed(reason.into());
        }
        _ => drop(permit),
    }
}
