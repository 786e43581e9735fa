//! A fault-injecting proxy: it cuts connections, and delays, throttles, drops or corrupts the bytes
//! between a client and a target.
//!
//! ```text
//!   client ──▶ read ─▶ flip bits ─▶ wait: delay, rate ─▶ write ──▶ target
//!          ◀── write ◀─ wait: delay, rate ◀─ flip bits ◀─ read ◀──
//!                        both ways at once; cut after a while
//! ```
//!
//! It works on bytes and knows nothing about framings or messages.

mod line;
mod noise;
mod way;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tieline_proto::ByteSize;
use tieline_transport::{
    BoxConnection, ConfigError, DynListener, Endpoint, Options, Registry, TransportError,
};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;

use crate::serve::log_error;
use line::{LineEnd, Traffic};

/// The faults that a [`Chaos`] injects into each connection; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// The age at which each connection is cut. Both sides are closed at once, possibly in the middle of
    /// a message, and bytes in flight are lost. The age must be longer than zero and at most a day.
    pub cut_every: Option<Duration>,
    /// How long bytes, and the end of a stream, are delayed in each direction, at most a day. No more
    /// than 1 MiB is in flight in each direction, so this also limits the throughput.
    pub delay: Duration,
    /// The number of bytes per second that are passed on in each direction of each connection, at least
    /// 1.
    pub throttle: Option<ByteSize>,
    /// Whether bytes are read and discarded. The end of a stream is not passed on either, so neither side
    /// notices when the other disconnects. The connection ends when both sides have ended it.
    pub blackhole: bool,
    /// The probability that a byte has one bit flipped, from 0 to 1.
    pub corrupt: f64,
    /// Determines which bits are flipped: with the same seed, the same positions in the n-th connection
    /// are corrupted.
    pub seed: u64,
}

const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Faults {
    /// Checks that all values are within their bounds.
    ///
    /// # Errors
    /// Fails with the first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |field, must| Err(ConfigError { field, must });
        if self.cut_every.is_some_and(|time| time.is_zero() || time > A_DAY) {
            return refuse("cut_every", "be longer than zero and at most a day");
        }
        if self.delay > A_DAY {
            return refuse("delay", "be at most a day");
        }
        if self.throttle.is_some_and(|rate| rate.bytes() == 0) {
            return refuse("throttle", "be at least 1 B a second");
        }
        if !(0.0..=1.0).contains(&self.corrupt) {
            return refuse("corrupt", "be between 0 and 1");
        }
        Ok(())
    }
}

/// The maximum number of open connections. Further connections are closed at once.
const MAX_CONNECTIONS: usize = 1024;

/// A fault-injecting proxy: it connects to the target for each accepted connection, and injects
/// [`Faults`] into the bytes between the two.
///
/// Without faults the proxy is transparent. The end of one direction is passed on, and when one side ends,
/// so does the other. At most 64 KiB are buffered in each direction, or 1 MiB with a delay; then reading
/// pauses. If the target is a child process, it is stopped in stages after its connection has ended by
/// itself, and at once if the connection was cut or failed.
///
/// ```
/// use std::time::Duration;
/// use tieline_gateway::{Chaos, Faults};
/// use tieline_transport::{Endpoint, Options, Registry};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let (registry, options) = (Registry::new(), Options::default());
/// let (front, back) = (Endpoint::memory("front"), Endpoint::memory("back"));
/// let faults = Faults { cut_every: Some(Duration::from_secs(5)), ..Faults::default() };
/// let chaos = Chaos::listen(&registry, &front, &back, &options, faults).await?;
/// let stop = tokio::time::sleep(Duration::from_millis(10));
/// assert_eq!(chaos.run(stop).await.cut, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Chaos {
    listener: Box<dyn DynListener>,
    target: Target,
    faults: Faults,
}

struct Target {
    registry: Registry,
    endpoint: Endpoint,
    options: Options,
}

/// The totals of a [`Chaos`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChaosReport {
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that were closed at once, because there were too many or the target could not be
    /// reached.
    pub refused: u64,
    /// Connections that were cut.
    pub cut: u64,
    /// Bytes that were passed on to the target.
    pub to_target: u64,
    /// Bytes that were passed on to the clients.
    pub to_client: u64,
    /// Bytes that were read but not passed on: discarded, or in flight at the end of a connection.
    pub dropped: u64,
    /// Bytes that were read and in which a bit was flipped.
    pub corrupted: u64,
}

impl Chaos {
    /// Listens on `listen` for connections to `target`. Framing prefixes of the endpoints are ignored.
    /// Does not connect to the target yet.
    ///
    /// # Errors
    /// Fails if a fault is out of bounds, the target is the listener itself, or listening fails.
    pub async fn listen(
        registry: &Registry,
        listen: &Endpoint,
        target: &Endpoint,
        options: &Options,
        faults: Faults,
    ) -> Result<Self, TransportError> {
        faults.validate()?;
        let listener = registry.listen_bytes(listen, options).await?;
        if listener.endpoint().address() == target.address() {
            let itself = ConfigError { field: "target", must: "differ from the listener" };
            return Err(TransportError::from(itself).at(target));
        }
        let (registry, options) = (registry.clone(), options.clone());
        let target = Target { registry, endpoint: target.clone(), options };
        Ok(Self { listener, target, faults })
    }

    /// Returns the listening endpoint, with the actual port if port 0 was requested.
    pub fn endpoint(&self) -> &Endpoint {
        self.listener.endpoint()
    }

    /// Passes bytes on and injects faults until `stop` completes. Then stops listening, closes all
    /// connections at once, and returns the totals.
    ///
    /// Dropping the future closes everything at once.
    pub async fn run(self, stop: impl Future<Output = ()>) -> ChaosReport {
        let Self { mut listener, target, faults } = self;
        let shared = Arc::new(Shared { target, faults, traffic: Traffic::default() });
        let mut lines = Lines::default();
        let mut stop = pin!(stop);
        let mut pause = None;
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(ended) = lines.tasks.join_next() => lines.ended(ended),
                accepted = accept(&mut *listener, pause) => match accepted {
                    Ok(client) => {
                        pause = None;
                        lines.start(client, &shared);
                    }
                    // Accept errors are usually temporary, such as running out of file descriptors.
                    Err(error) => {
                        if pause.is_none() {
                            log_error("retrying", &error);
                        }
                        pause = Some(pause.map_or(FIRST_PAUSE, |last: Duration| last * 2).min(LONGEST_PAUSE));
                    }
                },
            }
        }
        drop(listener);
        lines.tasks.abort_all();
        while let Some(ended) = lines.tasks.join_next().await {
            lines.ended(ended);
        }
        lines.report.with(&shared.traffic)
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

async fn accept(
    listener: &mut dyn DynListener,
    pause: Option<Duration>,
) -> Result<BoxConnection, TransportError> {
    if let Some(pause) = pause {
        sleep(pause).await;
    }
    listener.accept().await
}

struct Shared {
    target: Target,
    faults: Faults,
    traffic: Traffic,
}

#[derive(Default)]
struct Lines {
    tasks: JoinSet<Outcome>,
    report: ChaosReport,
}

enum Outcome {
    Unreachable,
    Ended,
    Cut,
}

impl Lines {
    fn start(&mut self, client: BoxConnection, shared: &Arc<Shared>) {
        self.report.connections += 1;
        if self.tasks.len() >= MAX_CONNECTIONS {
            self.report.refused += 1;
            tracing::warn!("connection closed: {MAX_CONNECTIONS} are already open");
            return;
        }
        self.tasks.spawn(serve(self.report.connections, client, shared.clone()));
    }

    fn ended(&mut self, ended: Result<Outcome, JoinError>) {
        match ended {
            Ok(Outcome::Unreachable) => self.report.refused += 1,
            Ok(Outcome::Cut) => self.report.cut += 1,
            Ok(Outcome::Ended) => {}
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!("the task of a connection failed: {error}"),
        }
    }
}

async fn serve(connection: u64, client: BoxConnection, shared: Arc<Shared>) -> Outcome {
    let Target { registry, endpoint, options } = &shared.target;
    let target = match registry.connect_bytes(endpoint, options).await {
        Ok(target) => target,
        Err(error) => {
            log_error("client refused", &error);
            return Outcome::Unreachable;
        }
    };
    tracing::debug!(connection, "connected");
    match line::run(connection, client, target, &shared.faults, &shared.traffic).await {
        LineEnd::Cut => {
            tracing::debug!(connection, "cut");
            return Outcome::Cut;
        }
        LineEnd::Ended => tracing::debug!(connection, "ended"),
        LineEnd::Broken(error) => tracing::debug!(connection, "ended: {error}"),
    }
    Outcome::Ended
}

impl ChaosReport {
    fn with(self, Traffic { to_target, to_client }: &Traffic) -> Self {
        let both = |count: fn(&way::Moved) -> &AtomicU64| {
            count(to_target).load(Relaxed) + count(to_client).load(Relaxed)
        };
        let passed = both(|way| &way.passed);
        Self {
            to_target: to_target.passed.load(Relaxed),
            to_client: to_client.passed.load(Relaxed),
            dropped: both(|way| &way.read).saturating_sub(passed),
            corrupted: both(|way| &way.corrupted),
            ..self
        }
    }
}
