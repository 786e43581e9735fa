//! Programs that are started before their clients connect. Each is used by one client and never again.
//!
//! A task keeps the programs warm: it starts them, and replaces those that were taken or have ended. While a
//! program is warm, nothing is written to it and nothing is read from it, so its first output waits in the pipe.

mod client;
mod pace;
mod warm;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tieline_transport::{
    BoxChannel, CloseReason, DynConnector, ErrorKind, Operation, TransportError, WarnThrottle,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::client::ForClient;
use self::pace::Pace;
use self::warm::Warm;
use crate::ending::PROGRAM_FAILURES;
use crate::lock::lock;

/// The bounds of the pools of a server.
#[derive(Clone)]
pub(crate) struct PoolOptions {
    /// How many programs each pool keeps warm.
    pub(crate) warm: usize,
    /// One permit for each program that may still be started.
    pub(crate) limit: Arc<Semaphore>,
    /// How many programs may run at once.
    pub(crate) most: usize,
    pub(crate) counts: Arc<PoolCounts>,
}

/// How many programs of a server's pools have no client.
#[derive(Debug, Default)]
pub(crate) struct PoolCounts {
    warm: Arc<AtomicUsize>,
    starting: Arc<AtomicUsize>,
    /// Changes whenever another program may be started.
    freed: watch::Sender<()>,
}

impl PoolCounts {
    /// Returns how many programs are warm, and how many of the `running` ones have a client.
    pub(crate) fn view(&self, running: usize) -> (usize, usize) {
        let warm = self.warm.load(Relaxed);
        (warm, running.saturating_sub(warm + self.starting.load(Relaxed)))
    }
}

/// Counts something until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The right to run one program.
struct Place {
    permit: Option<OwnedSemaphorePermit>,
    counts: Arc<PoolCounts>,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.counts.freed.send_replace(());
    }
}

/// The programs of one target that are kept warm.
pub(crate) struct Pool {
    target: Arc<dyn DynConnector>,
    options: PoolOptions,
    state: Mutex<State>,
    /// Wakes the task when a program was taken.
    taken: Notify,
    /// Wakes clients that wait for a program that is being started.
    settled: Notify,
    failures: WarnThrottle,
}

struct State {
    /// The oldest program is first.
    warm: VecDeque<Warm>,
    is_starting: bool,
    is_stopped: bool,
    pace: Pace,
}

/// What the task does next.
enum Step {
    Start(Place),
    WaitUntil(Instant),
    Wait,
}

/// What a client that needs a program does next.
enum Found {
    Warm(BoxChannel, Place),
    /// Start a program.
    OnDemand(Place),
    /// Wait for the program that is being started, and try again.
    Starting,
    Full,
}

impl Pool {
    pub(crate) fn new(target: Arc<dyn DynConnector>, options: PoolOptions) -> Arc<Self> {
        let (warm, pace) = (VecDeque::new(), Pace::default());
        let state = State { warm, is_starting: false, is_stopped: false, pace };
        Arc::new(Self {
            target,
            options,
            state: Mutex::new(state),
            taken: Notify::new(),
            settled: Notify::new(),
            failures: WarnThrottle::new(|count| {
                tracing::warn!(
                    target: PROGRAM_FAILURES,
                    count,
                    "more warm programs could not be started or have ended"
                );
            }),
        })
    }

    /// Returns whether this is the pool of `target`.
    pub(crate) fn is_of(&self, target: &Arc<dyn DynConnector>) -> bool {
        Arc::ptr_eq(&self.target, target)
    }

    /// Returns a connector for one client.
    pub(crate) fn for_client(self: &Arc<Self>) -> Arc<dyn DynConnector> {
        Arc::new(ForClient::new(self.clone()))
    }

    /// Keeps programs warm until `stop` is set, and then stops them in stages.
    async fn keep(self: Arc<Self>, mut stop: watch::Receiver<bool>, grace: Duration) {
        tokio::select! {
            // Programs that were just started are watched from the same poll.
            biased;
            // An error means that the owner was dropped.
            _ = stop.wait_for(|stop| *stop) => {}
            never = self.refill() => match never {},
            never = self.watch() => match never {},
        }
        let mut stopping = JoinSet::new();
        for warm in self.close() {
            stopping.spawn(warm.stop(grace));
        }
        stopping.join_all().await;
    }

    /// Starts no more programs, and returns those that are warm.
    fn close(&self) -> VecDeque<Warm> {
        let mut state = self.lock();
        state.is_stopped = true;
        std::mem::take(&mut state.warm)
    }

    async fn refill(&self) -> Infallible {
        let mut freed = self.options.counts.freed.subscribe();
        loop {
            match self.next_step() {
                Step::Start(place) => self.start(place).await,
                Step::WaitUntil(time) => sleep_until(time).await,
                Step::Wait => tokio::select! {
                    () = self.taken.notified() => {}
                    // The sender is part of the options.
                    _ = freed.changed() => {}
                },
            }
        }
    }

    fn next_step(&self) -> Step {
        let mut state = self.lock();
        if state.is_stopped || state.warm.len() >= self.options.warm {
            return Step::Wait;
        }
        if state.warm.front().is_some_and(Warm::works) {
            state.pace.worked();
        }
        if let Some(until) = state.pace.wait() {
            return Step::WaitUntil(until);
        }
        match self.place() {
            Some(place) => {
                state.pace.started();
                state.is_starting = true;
                Step::Start(place)
            }
            None => Step::Wait,
        }
    }

    fn place(&self) -> Option<Place> {
        let permit = self.options.limit.clone().try_acquire_owned().ok()?;
        Some(Place { permit: Some(permit), counts: self.options.counts.clone() })
    }

    async fn start(&self, place: Place) {
        let _starting = Starting::new(self);
        match self.target.connect().await {
            Ok(channel) => {
                let counted = Counted::new(&self.options.counts.warm);
                let warm = Warm::new(channel, place, counted);
                tracing::debug!(pid = warm.pid(), "started a warm program");
                let mut state = self.lock();
                if !state.is_stopped {
                    state.warm.push_back(warm);
                }
            }
            Err(error) => {
                self.lock().pace.failed();
                self.warn(format_args!("could not be started: {error}"));
            }
        }
    }

    /// Removes programs that end while they are warm.
    async fn watch(&self) -> Infallible {
        poll_fn(|cx| {
            while let Some(reason) = self.remove_ended(cx) {
                self.warn(format_args!("has ended: {reason}"));
                self.taken.notify_one();
            }
            Poll::<Infallible>::Pending
        })
        .await
    }

    fn remove_ended(&self, cx: &mut Context<'_>) -> Option<CloseReason> {
        let mut state = self.lock();
        let polled = state.warm.iter_mut().enumerate();
        let (place, reason) =
            polled.into_iter().find_map(|(place, it)| match it.poll_ended(cx) {
                Poll::Ready(reason) => Some((place, reason)),
                Poll::Pending => None,
            })?;
        let ended = state.warm.remove(place);
        state.pace.ended(ended.as_ref().is_some_and(Warm::works));
        drop(state);
        drop(ended);
        Some(reason)
    }

    /// Logs why a warm program is missing, as a warning at most once per minute.
    fn warn(&self, what: std::fmt::Arguments<'_>) {
        match self.failures.admit(std::time::Instant::now()) {
            Some(unreported) => tracing::warn!(
                target: PROGRAM_FAILURES,
                unreported,
                "a warm program {what}"
            ),
            None => tracing::debug!("a warm program {what}"),
        }
    }

    /// Takes a warm program, or starts one if there is none. `own` is the place of the client's previous
    /// program, which has ended.
    async fn take(&self, mut own: Option<Place>) -> Result<(BoxChannel, Place), TransportError> {
        loop {
            let mut settled = pin!(self.settled.notified());
            settled.as_mut().enable();
            match self.find(&mut own) {
                Found::Warm(channel, place) => return Ok((channel, place)),
                Found::OnDemand(place) => {
                    tracing::debug!("no program is warm, so one is started");
                    return Ok((self.target.connect().await?, place));
                }
                Found::Starting => settled.await,
                Found::Full => {
                    let kind = ErrorKind::TooManyPrograms { limit: self.options.most };
                    return Err(TransportError::new(kind, Operation::Launch));
                }
            }
        }
    }

    fn find(&self, own: &mut Option<Place>) -> Found {
        let mut state = self.lock();
        let mut cx = Context::from_waker(Waker::noop());
        while let Some(mut warm) = state.warm.pop_front() {
            self.taken.notify_one();
            let works = warm.works();
            // It may have ended a moment ago.
            if let Poll::Ready(reason) = warm.poll_ended(&mut cx) {
                state.pace.ended(works);
                self.warn(format_args!("has ended: {reason}"));
                continue;
            }
            if works {
                state.pace.worked();
            }
            let (channel, place) = warm.into_parts();
            return Found::Warm(channel, place);
        }
        match own.take().or_else(|| self.place()) {
            Some(place) => Found::OnDemand(place),
            None if state.is_starting => Found::Starting,
            None => Found::Full,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A program of the pool is being started.
struct Starting<'a>(&'a Pool, #[allow(dead_code)] Counted);

impl<'a> Starting<'a> {
    fn new(pool: &'a Pool) -> Self {
        Self(pool, Counted::new(&pool.options.counts.starting))
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.lock().is_starting = false;
        self.0.settled.notify_waiters();
    }
}

/// The tasks that keep the programs of a server's pools warm. Dropping it kills the warm programs at once.
#[derive(Default)]
pub(crate) struct PoolTasks {
    pools: Vec<Arc<Pool>>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl PoolTasks {
    /// Starts the task of a pool. Its programs may take `grace` to take the end of their input.
    pub(crate) fn add(&mut self, pool: Arc<Pool>, grace: Duration) {
        self.tasks.spawn(pool.clone().keep(self.stop.subscribe(), grace));
        self.pools.push(pool);
    }

    /// Begins to stop the warm programs in stages. No more are started.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until all warm programs have been stopped.
    pub(crate) async fn stopped(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for PoolTasks {
    fn drop(&mut self) {
        self.pools.iter().for_each(|pool| drop(pool.close()));
    }
}
