//! A server that connects clients to far sides: each to its own, or several to one.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tieline_link::{Link, LinkOptions, Recovery};
use tieline_proto::RestartPolicy;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, DynAcceptor, DynConnector, ErrorKind, ProcessAccount,
    ProcessCounts, TransportError, from_now,
};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep_until, timeout, timeout_at};
use tracing::{Instrument, info_span};

use crate::admit::admit;
use crate::ending::PROGRAM_FAILURES;
use crate::far_breaker::FarBreaker;
use crate::judge::judge;
use crate::pool::PoolTasks;
use crate::probe::probed;
use crate::processes::{NO_IDENTITY, Programs};
use crate::turn_away::{Refusal, turn_away};
use crate::watch::Counting;
use crate::{Bridge, BridgeEnd, BridgeReport, NotShareable, Processes, ServerWatch, bridge};

/// A server that accepts clients and connects each to its own far side, or [several to one](Self::processes).
pub struct Server {
    listeners: Vec<ServedListener>,
    max_connections: usize,
    bridge: Bridge,
    restart: RestartPolicy,
    probe: Option<Duration>,
    account: Option<ProcessAccount>,
    programs: Option<Programs>,
    logs_last_lines: bool,
    make_room: Option<MakeRoom>,
    end_when_idle: Option<Duration>,
    watch: ServerWatch,
}

/// Ends a line that is not in use. Returns false if there is none.
type MakeRoom = Box<dyn Fn() -> bool + Send + Sync>;

struct ServedListener {
    acceptor: Box<dyn DynAcceptor>,
    target: Arc<dyn DynConnector>,
    /// The dialect that overrides that of the bridge, if any.
    dialect: Option<Dialect>,
}

/// The totals of a [`Server`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerReport {
    /// Clients that were connected to a far side and whose line has ended.
    pub served: u64,
    /// Clients that were refused: there were too many, or connecting to the far side failed.
    pub refused: u64,
    /// Lines that ended with an error.
    pub failed: u64,
    /// Messages that were not passed on.
    pub lost: u64,
    /// Bytes from clients that far sides [did not read](BridgeReport::unread).
    pub unread: u64,
    /// How often far sides were restarted.
    pub restarted: u64,
    /// The counts of the programs in the server's [account](Server::account).
    pub programs: ProcessCounts,
}

impl Server {
    /// Creates a server without acceptors, for at most `max_connections` clients at once. `bridge` has the
    /// options for each line.
    pub fn new(max_connections: usize, bridge: Bridge) -> Self {
        let (listeners, restart) = (Vec::new(), RestartPolicy::Never);
        let watch = ServerWatch::default();
        Self {
            listeners,
            max_connections,
            bridge,
            restart,
            probe: None,
            account: None,
            programs: None,
            logs_last_lines: false,
            make_room: None,
            end_when_idle: None,
            watch,
        }
    }

    /// Makes the server stop by itself when it has had no client for `timeout`; never by default. A client that
    /// connects while the server stops is disconnected without a message.
    pub fn end_when_idle(&mut self, timeout: Duration) {
        self.end_when_idle = Some(timeout);
    }

    /// Sets what makes room for a client that arrives when there are `max_connections` clients already:
    /// `make_room` lets a line end that is not in use, and returns whether it has found one. The new client waits
    /// until a line has ended. Without this, and if it returns false, the client is refused.
    pub fn make_room(&mut self, make_room: impl Fn() -> bool + Send + Sync + 'static) {
        self.make_room = Some(Box::new(make_room));
    }

    /// Returns a handle to observe the server.
    pub fn watch(&self) -> ServerWatch {
        self.watch.clone()
    }

    /// Sets the account that counts the programs at the far sides; none by default. The same account
    /// must be in their [options](tieline_transport::Options::account). The report includes its counts,
    /// taken when all programs have exited, or 2 s after the last line has ended.
    pub fn account(&mut self, account: ProcessAccount) {
        self.account = Some(account);
    }

    /// Sets whether the last lines of a failed program's stderr are logged with its failure; false by default,
    /// because stderr is usually [logged](tieline_transport::ChildStderr::Log) as it arrives.
    pub fn log_last_lines(&mut self, is_on: bool) {
        self.logs_last_lines = is_on;
    }

    /// Sets when a far side is restarted while its client is connected, as in
    /// [`bridge_supervised`](crate::bridge_supervised); never by default.
    pub fn restart(&mut self, policy: RestartPolicy) {
        self.restart = policy;
    }

    /// Sets how often a program is asked whether it still answers; never by default. This has no effect with dialects
    /// that have no [ping](Dialect::ping).
    ///
    /// The first ping follows the program's first message after a request. A program that sends nothing while it
    /// leaves three pings unanswered is stopped in stages, and its line is lost as
    /// [unresponsive](CloseReason::Unresponsive). Clients never see the pings.
    pub fn probe(&mut self, interval: Duration) {
        self.probe = Some(interval);
    }

    /// Sets which clients use the same program, or that programs are started ahead; by default each client
    /// has its own.
    ///
    /// A shared program is started for its first client, and stopped when it has had no client for a
    /// while. If it ends, the lines of all its clients end, or it is [restarted](Self::restart). A
    /// client that leaves 64 MiB unread is disconnected, so that the others need not wait for it.
    ///
    /// A [pool](crate::ProcessModel::Pool) is filled when the server runs. Each target has its own.
    ///
    /// # Errors
    /// The programs of the bridge's [dialect](Bridge::dialect) cannot be shared, or the bridge has no
    /// dialect. The pool is larger than the number of programs that may run.
    pub fn processes(&mut self, processes: Processes) -> Result<(), NotShareable> {
        let programs = Programs::new(processes, self.bridge.dialect)?;
        self.watch.programs(programs.count());
        self.programs = Some(programs);
        Ok(())
    }

    /// Adds an acceptor. Each of its clients is connected to a channel from `target`.
    pub fn add(&mut self, acceptor: Box<dyn DynAcceptor>, target: Arc<dyn DynConnector>) {
        self.listeners.push(ServedListener { acceptor, target, dialect: None });
    }

    /// Adds an acceptor whose clients use this dialect instead of that of the [bridge](Bridge::dialect).
    pub fn add_for_dialect(
        &mut self,
        acceptor: Box<dyn DynAcceptor>,
        target: Arc<dyn DynConnector>,
        dialect: Dialect,
    ) {
        self.listeners.push(ServedListener { acceptor, target, dialect: Some(dialect) });
    }

    /// Serves until `stop` completes. Then stops listening, lets every line end within the bridge's
    /// grace period, and returns the totals. Lines that have not ended 1 s after the grace period are
    /// aborted.
    ///
    /// Dropping the future closes everything at once.
    pub async fn run(self, stop: impl Future<Output = ()>) -> ServerReport {
        let Self {
            listeners,
            max_connections,
            bridge,
            restart,
            probe,
            account,
            programs,
            logs_last_lines,
            make_room,
            end_when_idle,
            watch,
        } = self;
        let mut pools = programs.as_ref().map_or_else(PoolTasks::default, |programs| {
            programs.fill_pools(listeners.iter().map(|it| &it.target), bridge.grace)
        });
        let (arrived, mut arrivals) = mpsc::channel(listeners.len().max(1));
        let mut listeners: JoinSet<()> =
            listeners.into_iter().map(|listener| accept(listener, arrived.clone())).collect();
        drop(arrived);
        let (stopping, _) = watch::channel(false);
        let grace = bridge.grace;
        let breaker = FarBreaker::new(watch.breaker());
        let mut lines = Lines { watch, logs_last_lines, ..Lines::default() };
        let mut turned_away = JoinSet::new();
        let joined = || Joined {
            restart,
            probe,
            breaker: breaker.clone(),
            programs: programs.clone(),
            bridge: bridge.clone(),
        };
        // Clients that take the places of lines which are about to end.
        let mut waiting: VecDeque<Arrival> = VecDeque::new();
        let mut stop = pin!(stop);
        let mut idle_until = None;
        loop {
            let is_idle = lines.tasks.is_empty() && turned_away.is_empty();
            idle_until = match end_when_idle.filter(|_| is_idle) {
                Some(timeout) => idle_until.or_else(|| Some(from_now(timeout))),
                None => None,
            };
            let idle = async {
                match idle_until {
                    Some(until) => sleep_until(until).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = &mut stop => break,
                () = idle => {
                    tracing::info!("stopping: there was no client for the idle time");
                    break;
                }
                Some(ended) = lines.tasks.join_next_with_id() => {
                    lines.ended(ended);
                    if let Some(arrival) = waiting.pop_front() {
                        lines.start(arrival, joined(), stopping.subscribe());
                    }
                }
                Some(_) = turned_away.join_next() => {}
                Some(arrival) = arrivals.recv() => {
                    lines.watch.client_connected();
                    if lines.tasks.len() < max_connections {
                        lines.start(arrival, joined(), stopping.subscribe());
                        continue;
                    }
                    let finds_room = || make_room.as_ref().is_some_and(|make_room| make_room());
                    if waiting.len() < WAITING && finds_room() {
                        waiting.push_back(arrival);
                        continue;
                    }
                    let why =
                        format!("too many clients: the limit of {max_connections} is reached");
                    lines.refuse(&why);
                    let client = arrival.client;
                    if turned_away.len() < TURNED_AWAY {
                        let dialect = arrival.dialect.or(bridge.dialect);
                        turned_away.spawn(async move {
                            turn_away(client, dialect, Refusal::new(&why)).await;
                        });
                    } else {
                        let reason = CloseReason::TurnedAway(why.into());
                        client.control().report_at_close(reason);
                    }
                }
            }
        }
        pools.stop();
        listeners.shutdown().await;
        while let Some(Arrival { client, .. }) = waiting.pop_front().or_else(|| {
            let arrival = arrivals.try_recv().ok()?;
            lines.watch.client_connected();
            Some(arrival)
        }) {
            lines.refuse(STOPPING);
            client.control().report_at_close(CloseReason::ByUs);
        }
        turned_away.shutdown().await;
        stopping.send_replace(true);
        let hard_stop = from_now(grace.saturating_add(HARD_STOP));
        while let Ok(Some(ended)) = timeout_at(hard_stop, lines.tasks.join_next_with_id()).await {
            lines.ended(ended);
        }
        lines.tasks.abort_all();
        while let Some(ended) = lines.tasks.join_next_with_id().await {
            lines.ended(ended);
        }
        if let Some(programs) = programs {
            // The clients of a program that does not read may have used all the time above, but the program
            // still gets every stage of its stop. Programs that have not stopped after that are killed.
            let stopped = async { tokio::join!(programs.stop(), pools.stopped()) };
            let _ = timeout(grace.saturating_add(HARD_STOP), stopped).await;
            lines.report.lost += programs.count().lost();
        }
        drop(pools);
        if let Some(account) = account {
            lines.report.programs = account.settled(EXIT_TIMEOUT).await;
        }
        lines.report
    }
}

/// How many clients at once wait for lines that are about to end.
const WAITING: usize = 64;

/// Why a client is refused during a stop.
const STOPPING: &str = "the server is stopping";

/// How many refused clients may receive an error response at once. Further ones are disconnected without
/// it.
const TURNED_AWAY: usize = 64;

/// How long the report waits for killed programs to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long after the grace period lines are aborted. Normally each line ends by itself before that.
const HARD_STOP: Duration = Duration::from_secs(1);

/// How a client is connected to its far side.
struct Joined {
    restart: RestartPolicy,
    probe: Option<Duration>,
    breaker: FarBreaker,
    programs: Option<Programs>,
    bridge: Bridge,
}

struct Arrival {
    client: BoxChannel,
    target: Arc<dyn DynConnector>,
    dialect: Option<Dialect>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts clients. Errors are usually temporary, such as running out of file descriptors, so it retries
/// with increasing pauses.
async fn accept(listener: ServedListener, arrivals: mpsc::Sender<Arrival>) {
    let ServedListener { mut acceptor, target, dialect } = listener;
    let mut pause = None;
    // A place is reserved first, so that the server knows of every accepted client.
    while let Ok(place) = arrivals.reserve().await {
        match acceptor.accept().await {
            Ok(client) => {
                if pause.take().is_some() {
                    tracing::info!("accepting again on {}", acceptor.endpoint());
                }
                let target = target.clone();
                place.send(Arrival { client, target, dialect });
            }
            Err(error) => {
                if pause.is_none() {
                    log_error("retrying", &error);
                }
                let wait = pause.map_or(FIRST_PAUSE, |last: Duration| last * 2).min(LONGEST_PAUSE);
                pause = Some(wait);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

#[derive(Default)]
struct Lines {
    tasks: JoinSet<Option<BridgeReport>>,
    numbers: BTreeMap<Id, u64>,
    last: u64,
    report: ServerReport,
    watch: ServerWatch,
    logs_last_lines: bool,
}

impl Lines {
    fn refuse(&mut self, why: &str) {
        self.report.refused += 1;
        self.watch.report(self.report);
        tracing::warn!("client refused: {why}");
    }

    fn start(&mut self, arrival: Arrival, mut joined: Joined, stopping: watch::Receiver<bool>) {
        self.last += 1;
        let line = self.last;
        let peer = arrival.client.control().peer();
        let peer = peer.map_or_else(String::new, |peer| format!(" ({peer})"));
        tracing::info!(line, "client connected{peer}");
        joined.bridge.line = line;
        joined.bridge.dialect = arrival.dialect.or(joined.bridge.dialect);
        self.watch.begun(line, arrival.client.control().clone());
        let running = run(arrival, joined, self.watch.clone(), stopping);
        let task = self.tasks.spawn(running.instrument(info_span!("line", id = line)));
        self.numbers.insert(task.id(), line);
    }

    fn ended(&mut self, ended: Result<(Id, Option<BridgeReport>), tokio::task::JoinError>) {
        let id = ended.as_ref().map_or_else(|error| error.id(), |(id, _)| *id);
        let line = self.numbers.remove(&id).unwrap_or_default();
        match ended {
            Ok((_, Some(BridgeReport { to_far, to_near, lost, unread, restarted, end, .. }))) => {
                self.report.served += 1;
                self.report.lost += lost;
                self.report.unread += unread;
                self.report.restarted += restarted;
                self.report.failed += u64::from(!end.is_clean());
                let end_text = match self.logs_last_lines {
                    true => format!("{end:#}"),
                    false => end.to_string(),
                };
                macro_rules! log {
                    ($level:ident, $target:expr) => {
                        tracing::$level!(
                            target: $target,
                            line,
                            to_far,
                            to_near,
                            lost,
                            unread,
                            restarted,
                            "the line has ended: {end_text}"
                        )
                    };
                }
                match &end {
                    BridgeEnd::Far(reason) if !reason.is_clean() => log!(warn, PROGRAM_FAILURES),
                    end if end.is_clean() && unread == 0 => log!(info, module_path!()),
                    _ => log!(warn, module_path!()),
                }
                if let (true, false, Some(exit)) =
                    (self.logs_last_lines, end.is_clean(), end.child_exit())
                {
                    for text in exit.last_lines() {
                        tracing::warn!(target: PROGRAM_FAILURES, line, "stderr: {text}");
                    }
                }
            }
            Ok((_, None)) => self.report.refused += 1,
            Err(error) if error.is_cancelled() => {
                self.report.failed += 1;
                tracing::warn!(line, "the line was aborted: it did not end in time");
            }
            Err(error) => {
                self.report.failed += 1;
                tracing::error!(line, "the task of the line failed: {error}");
            }
        }
        self.watch.over(line, self.report);
    }
}

/// Runs one client's line. Returns `None` if the client was refused.
async fn run(
    arrival: Arrival,
    Joined { restart, probe, breaker, programs, bridge: how }: Joined,
    watch: ServerWatch,
    mut stopping: watch::Receiver<bool>,
) -> Option<BridgeReport> {
    let mut stop = pin!(async {
        // This cannot fail, because the server, which has the sender, outlives this task.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    });
    // Until the client has a far side, this reports to the client that the server is stopping.
    let control = arrival.client.control().clone();
    let gone = || {
        tracing::warn!("client refused: {STOPPING}");
        control.report_at_close(CloseReason::ByUs);
        None
    };
    let client = tokio::select! {
        client = admit(arrival.client) => client?,
        () = &mut stop => return gone(),
    };
    let permit = match breaker.acquire() {
        Ok(permit) => permit,
        Err(failing) => {
            tracing::warn!(
                target: PROGRAM_FAILURES,
                "client refused: the program keeps failing: {failing}"
            );
            let refusal = Refusal::keeps_failing(&failing);
            return turn_away_until(&mut stop, client, how.dialect, refusal).await;
        }
    };
    let target = match &programs {
        None => Some(probed(arrival.target, how.dialect, probe)),
        Some(programs) => programs.for_client(&arrival.target, client.control(), &how, probe),
    };
    let Some(target) = target else {
        tracing::warn!("client refused: {NO_IDENTITY}");
        let refusal = Refusal::new(NO_IDENTITY);
        return turn_away_until(&mut stop, client, how.dialect, refusal).await;
    };
    let starts: Arc<AtomicU64> = Arc::default();
    let target = Arc::new(Counting { target, starts: Arc::clone(&starts) });
    let recovery = LinkOptions::recovering(Recovery::Restart(restart));
    let connected = tokio::select! {
        connected = Link::connect(target, recovery) => connected,
        () = &mut stop => return gone(),
    };
    match connected {
        Ok(far) => {
            watch.joined(how.line, &far, Arc::clone(&starts));
            let bridged = pin!(bridge(client, far.boxed(), how, stop));
            Some(judge(permit, &starts, bridged).await)
        }
        Err(error) => {
            // A lack of resources on our side is not a failure of the far side.
            let is_ours = matches!(
                error.kind(),
                ErrorKind::ResourcesExhausted
                    | ErrorKind::PipeFailed
                    | ErrorKind::TooManyPrograms { .. }
            );
            if !is_ours {
                permit.failed((&error).into());
            }
            log_error("client refused", &error);
            let why = format!("the program could not be started: {error}");
            let refusal = Refusal::because(why, CloseReason::Unreachable(error));
            turn_away_until(&mut stop, client, how.dialect, refusal).await
        }
    }
}

/// Refuses a client as [`turn_away`] does, but gives up when the server stops.
async fn turn_away_until(
    stop: impl Future<Output = ()>,
    client: BoxChannel,
    dialect: Option<Dialect>,
    refusal: Refusal,
) -> Option<BridgeReport> {
    tokio::select! {
        () = turn_away(client, dialect, refusal) => {}
        () = stop => {}
    }
    None
}

pub(crate) fn log_error(consequence: &str, error: &TransportError) {
    let cause = std::error::Error::source(error).map_or_else(String::new, |c| format!(" ({c})"));
    let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
    tracing::error!("{error}{cause}; {consequence}{hint}");
}
