//! A program that is started for its first client and shared by all.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tieline_proto::jsonrpc::{Dialect, SharingRules};
use tieline_proto::{Backoff, BackoffConfig};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, Control, DynConnector, ErrorKind, MemoryBudget,
    Operation, TransportError,
};
use tokio::sync::{MutexGuard, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::driver::drive;
use super::exchange::Exchange;
use super::hub::Hub;
use super::port::Port;
use crate::lock::lock;

/// How shared programs are run.
#[derive(Clone)]
pub(crate) struct ProgramOptions {
    pub(crate) dialect: Dialect,
    pub(crate) rules: &'static SharingRules,
    pub(crate) idle_timeout: Duration,
    pub(crate) memory: Option<MemoryBudget>,
    /// One permit for each program that may still be started.
    pub(crate) limit: Arc<Semaphore>,
    /// The number of programs that may run at once.
    pub(crate) most: usize,
    /// Counts the messages that are not passed on.
    pub(crate) lost: Arc<AtomicU64>,
}

/// A program that is started for its first client and shared by all. When it has had no client for a while, or
/// has ended, it is started again for the next one.
pub(crate) struct SharedProgram {
    target: Arc<dyn DynConnector>,
    options: ProgramOptions,
    state: tokio::sync::Mutex<State>,
    stop: watch::Sender<bool>,
}

struct State {
    running: Option<Running>,
    /// How long to wait after a program has failed soon after its start.
    pause: Backoff,
    /// The driver of the running program, and those of earlier ones that are still ending.
    drivers: JoinSet<()>,
}

/// The state that further clients need to join.
struct Running {
    exchange: Arc<Exchange>,
    control: Control,
    since: Instant,
}

/// How long a program must have run to be considered working.
const WORKS_AFTER: Duration = Duration::from_secs(10);

impl SharedProgram {
    pub(crate) fn new(target: Arc<dyn DynConnector>, options: ProgramOptions) -> Arc<Self> {
        let (stop, _) = watch::channel(false);
        let pause = Backoff::new(BackoffConfig::LOCAL);
        let state = State { running: None, pause, drivers: JoinSet::new() };
        Arc::new(Self { target, options, state: tokio::sync::Mutex::new(state), stop })
    }

    /// Returns a connector for one client.
    pub(crate) fn for_client(self: &Arc<Self>) -> Arc<dyn DynConnector> {
        Arc::new(ForClient { program: self.clone(), port: Mutex::default() })
    }

    /// Stops the program in stages, and does not start it again.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let mut state = self.state.lock().await;
        while state.drivers.join_next().await.is_some() {}
    }

    /// Returns whether the program is running, or a client has a connector to it.
    pub(crate) fn is_in_use(self: &Arc<Self>) -> bool {
        // A client that is just starting it has a connector. A program that is being stopped is driven, too.
        // The pause after a failure is remembered for as long as it counts.
        let is_driven = |mut state: MutexGuard<'_, State>| {
            while state.drivers.try_join_next().is_some() {}
            !state.drivers.is_empty() || state.has_just_failed()
        };
        Arc::strong_count(self) > 1 || self.state.try_lock().is_ok_and(is_driven)
    }

    async fn join(&self) -> Result<Port, TransportError> {
        // While the program starts, further clients wait here.
        let mut state = self.state.lock().await;
        let joined = |it: &Running| Port::new(&it.exchange, &it.control);
        if let Some(port) = state.running.as_ref().and_then(joined) {
            return Ok(port);
        }
        while state.drivers.try_join_next().is_some() {}
        state.pause_after_failure().await;
        let limit = self.options.most;
        let too_many =
            |_| TransportError::new(ErrorKind::TooManyPrograms { limit }, Operation::Launch);
        let permit = self.options.limit.clone().try_acquire_owned().map_err(too_many)?;
        let channel = self.target.connect().await?;
        let control = channel.control().clone();
        let hub = Hub::new(self.options.dialect, self.options.rules);
        let exchange = Exchange::new(hub, self.options.memory.clone(), self.options.lost.clone());
        let ended = || {
            let reason = control.close_reason().unwrap_or(CloseReason::ByUs);
            TransportError::new(ErrorKind::Closed(reason), Operation::Connect)
        };
        let port = Port::new(&exchange, &control).ok_or_else(ended)?;
        let driven =
            drive(exchange.clone(), channel, self.options.idle_timeout, self.stop.subscribe());
        let pid = control.child();
        tracing::info!(pid, "started a shared program");
        state.drivers.spawn(async move {
            let reason = driven.await;
            drop(permit);
            if reason.is_clean() {
                tracing::info!(pid, "a shared program has ended: {reason}");
            } else {
                tracing::warn!(pid, "a shared program has ended: {reason}");
            }
        });
        state.running = Some(Running { exchange, control, since: Instant::now() });
        Ok(port)
    }
}

impl State {
    /// Returns whether the last program has failed soon after its start, and this is not long ago.
    fn has_just_failed(&self) -> bool {
        let is_bad =
            |last: &Running| last.exchange.has_failed() && last.since.elapsed() < WORKS_AFTER;
        self.running.as_ref().is_some_and(is_bad)
    }

    /// Waits before restarting a program that failed soon after its start, longer each time. Otherwise
    /// each of many clients would start the program again.
    async fn pause_after_failure(&mut self) {
        if !self.has_just_failed() {
            self.pause = Backoff::new(BackoffConfig::LOCAL);
            return;
        }
        sleep(self.pause.next(0.5)).await;
    }
}

/// A connector for one client, which can reconnect after the program has ended.
struct ForClient {
    program: Arc<SharedProgram>,
    /// The client's last channel.
    port: Mutex<Option<Control>>,
}

impl DynConnector for ForClient {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        let last = || lock(&self.port);
        let reason = last().as_ref().and_then(Control::close_reason);
        Box::pin(async move {
            if let Some(reason @ (CloseReason::Overrun | CloseReason::NoMemory(_))) = reason {
                // The client did not read, or used too much memory. Connecting it again would not help.
                return Err(TransportError::new(ErrorKind::Closed(reason), Operation::Connect));
            }
            let port = self.program.join().await?;
            *last() = Some(port.control().clone());
            Ok(port.boxed())
        })
    }
}
