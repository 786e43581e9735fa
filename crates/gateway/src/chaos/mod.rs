//! Faults on purpose: bytes on their way between a client and a target are cut off, delayed, held
//! back, swallowed or spoilt.
//!
//! ```text
//!   client ──▶ read ─▶ flip bits ─▶ wait: delay, rate ─▶ write ──▶ target
//!          ◀── write ◀─ wait: delay, rate ◀─ flip bits ◀─ read ◀──
//!                        both ways at once; cut after a while
//! ```
//!
//! It knows no framing and no message, only bytes.

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

/// What goes wrong on each connection of a [`Chaos`]. By default nothing does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Each connection is cut so long after it was made: both sides are closed at once, also in the
    /// middle of a message, and what was on its way is lost. Longer than zero, and a day at most.
    pub cut_every: Option<Duration>,
    /// How much later bytes, and the end of a stream, go on than they came, each way. A day at most.
    /// No more than 1 MiB is on its way, so this bounds the rate, too.
    pub delay: Duration,
    /// How many bytes a second go on, each way of each connection; at least one.
    pub throttle: Option<ByteSize>,
    /// Nothing goes on, not even an end: what comes is read and dropped, and a side that goes away is
    /// still there for the other one. Such a connection is over when both sides have ended it.
    pub blackhole: bool,
    /// How likely it is that one bit of a byte is flipped: from 0 to 1.
    pub corrupt: f64,
    /// Says which bits are flipped: with the same seed, the same bytes of the n-th connection are
    /// spoilt in the same places.
    pub seed: u64,
}

const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Faults {
    /// Refuses values that are out of bounds.
    ///
    /// # Errors
    /// The first field that is out of bounds.
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

/// So many connections are open at once at most; more are closed as they come.
const MOST: usize = 1024;

/// A proxy that does harm: each connection that comes in gets one to the target, and the bytes
/// between them suffer its [`Faults`].
///
/// Without faults nobody notices it. The end of one direction is passed on; when one side ends, the
/// other does. What has been read and not written is at most 64 KiB a direction, or 1 MiB where there
/// is a delay; then no more is read. A child process as a target is ended in stages when its
/// connection has ended by itself, and at once when that was cut or has failed.
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

/// What a [`Chaos`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChaosReport {
    /// Connections that came in.
    pub connections: u64,
    /// Those that were closed at once: there were too many, or the target could not be reached.
    pub refused: u64,
    /// Those that were cut.
    pub cut: u64,
    /// Bytes that were passed on to the target.
    pub to_target: u64,
    /// Bytes that were passed on to the clients.
    pub to_client: u64,
    /// Bytes that were passed on to nobody: swallowed, or on their way at the end.
    pub dropped: u64,
    /// Bytes in which a bit was flipped, of those that were read.
    pub corrupted: u64,
}

impl Chaos {
    /// Starts to listen at `listen`, for connections to `target`. Framings in front of the endpoints
    /// say nothing here. Nothing is connected to yet.
    ///
    /// # Errors
    /// A fault is out of bounds, the target is the listener itself, or listening fails.
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
            let itself = ConfigError { field: "target", must: "be another than the listener" };
            return Err(TransportError::from(itself).at(target));
        }
        let (registry, options) = (registry.clone(), options.clone());
        let target = Target { registry, endpoint: target.clone(), options };
        Ok(Self { listener, target, faults })
    }

    /// Where it listens: with the port that was found, where any was asked for.
    pub fn endpoint(&self) -> &Endpoint {
        self.listener.endpoint()
    }

    /// Passes bytes and does harm until `stop` completes; then stops listening, closes every
    /// connection at once, and says what was done.
    ///
    /// Dropping the future ends everything at once.
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
                    // It concerns the moment: no descriptor left, most likely.
                    Err(error) => {
                        if pause.is_none() {
                            log_error("will try again", &error);
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
        if self.tasks.len() >= MOST {
            self.report.refused += 1;
            tracing::warn!("refused a connection: there are {MOST} already");
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
            Err(error) => tracing::error!("a connection's task has failed: {error}"),
        }
    }
}

async fn serve(connection: u64, client: BoxConnection, shared: Arc<Shared>) -> Outcome {
    let Target { registry, endpoint, options } = &shared.target;
    let target = match registry.connect_bytes(endpoint, options).await {
        Ok(target) => target,
        Err(error) => {
            log_error("the client was turned away", &error);
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
            corrupted: both(|way| &way.spoilt),
            ..self
        }
    }
}
