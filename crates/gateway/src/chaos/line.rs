//! One connection through the proxy, and how it ends.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;

use tieline_transport::{BoxConnection, Connection};
use tokio::io::sink;
use tokio::time::sleep;

use super::Faults;
use super::way::{Moved, Over, Source, Way, WayEnd};

/// The bytes that moved in each direction.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) to_target: Moved,
    pub(super) to_client: Moved,
}

/// Why a connection ended.
pub(super) enum LineEnd {
    /// Both directions ended.
    Ended,
    /// One side failed, and the other was closed at once.
    Broken(std::io::Error),
    /// The connection was cut on purpose.
    Cut,
}

/// Passes bytes in both directions until the connection ends. Dropping the future closes both sides at once.
pub(super) async fn run(
    number: u64,
    client: BoxConnection,
    target: BoxConnection,
    faults: &Faults,
    traffic: &Traffic,
) -> LineEnd {
    let cut = async {
        match faults.cut_every {
            Some(time) => sleep(time).await,
            None => pending().await,
        }
    };
    tokio::select! {
        // Once the time is up, the cut comes before anything else that is ready.
        biased;
        () = cut => LineEnd::Cut,
        end = join(number, client, target, faults, traffic) => end,
    }
}

async fn join(
    number: u64,
    client: BoxConnection,
    target: BoxConnection,
    faults: &Faults,
    traffic: &Traffic,
) -> LineEnd {
    let target_control = target.control().clone();
    let half_close = [client.capabilities().half_close, target.capabilities().half_close];
    let (client_read, client_write) = client.into_split();
    let (target_read, target_write) = target.into_split();
    let stream = number.wrapping_mul(2);
    let up = Way::new(faults, &traffic.to_target, stream);
    let down = Way::new(faults, &traffic.to_client, stream.wrapping_add(1));
    let mut up = pin!(up.pump(Box::new(client_read), target_write));
    let mut down = pin!(down.pump(Box::new(target_read), client_write));
    let (first, other, half_close) = tokio::select! {
        over = &mut up => (over, &mut down, half_close[0]),
        over = &mut down => (over, &mut up, half_close[1]),
    };
    let Over { end, source, sink } = first;
    let second = match end {
        WayEnd::Broken(error) => return LineEnd::Broken(error),
        // Without half-close, both directions end together.
        WayEnd::Passed if !half_close && !faults.blackhole => return LineEnd::Ended,
        WayEnd::Passed => other.await,
        // Bytes that this side still sends are delivered. Bytes for it are discarded, so that the other
        // side does not block.
        WayEnd::Gone => tokio::select! {
            over = other => over,
            never = discard(source) => match never {},
        },
    };
    // A program behind the target first gets the end of its input, and is then stopped in stages.
    drop((sink, second.sink));
    let _keep = second.source;
    target_control.stop().await;
    match second.end {
        WayEnd::Broken(error) => LineEnd::Broken(error),
        WayEnd::Passed | WayEnd::Gone => LineEnd::Ended,
    }
}

async fn discard(mut source: Source) -> Infallible {
    let _ = tokio::io::copy(&mut source, &mut sink()).await;
    let _open = source;
    pending().await
}
