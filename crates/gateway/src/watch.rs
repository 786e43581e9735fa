//! A view of a running server. It does not slow the lines down, because their own counters are read on
//! request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tieline_link::{LineState, LineStates, Link, SharedBreaker};
use tieline_proto::{BreakerConfig, BreakerState};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, ConnectionInfo, Control, DynConnector, Traffic, TransportError,
};

use crate::lock::lock;
use crate::processes::ProgramCount;
use crate::{ProgramsView, ServerReport};

/// A handle to observe a [`Server`](crate::Server) while it runs and afterwards
/// ([`Server::watch`](crate::Server::watch)). Clones observe the same server. It does not keep the server or
/// its lines alive.
#[derive(Clone, Debug)]
pub struct ServerWatch {
    seen: Arc<Mutex<Seen>>,
    breaker: SharedBreaker,
}

/// A snapshot of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerView {
    /// The number of clients that have connected, including those that were refused.
    pub connected: u64,
    /// The totals of the lines that have ended.
    pub report: ServerReport,
    /// The open lines, in the order in which they started.
    pub lines: Vec<LineView>,
    /// The traffic of open and ended lines.
    pub traffic: Traffic,
    /// How often the far sides of open and ended lines were restarted.
    pub restarts: u64,
    /// Whether far sides are started. The breaker opens for a while after five consecutive far sides
    /// could not be started, or failed within a second before either side had sent a message.
    pub breaker: BreakerState,
    /// How long until a far side is started again, if none is started now.
    pub retry_after: Option<Duration>,
    /// The programs that clients share; `None` if each client has its own.
    pub programs: Option<ProgramsView>,
}

/// A snapshot of an open line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LineView {
    /// The number of the line in the log and in the tap.
    pub id: u64,
    /// The client's connection and its traffic; "in" is what the client sent.
    pub client: ConnectionInfo,
    /// The far side; `None` until it is connected.
    pub program: Option<ProgramView>,
}

/// A snapshot of the far side of a line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProgramView {
    /// The state of the connection to the far side.
    pub state: LineState,
    /// The ID of its process, while the process runs.
    pub pid: Option<u32>,
    /// Whether the process was stopped by a signal such as SIGSTOP, and does nothing until SIGCONT.
    pub is_stopped: bool,
    /// How often the far side was restarted.
    pub restarts: u64,
}

#[derive(Debug, Default)]
struct Seen {
    connected: u64,
    report: ServerReport,
    lines: BTreeMap<u64, Line>,
    over: Traffic,
    programs: Option<ProgramCount>,
}

#[derive(Clone, Debug)]
struct Line {
    client: Control,
    program: Option<Program>,
}

#[derive(Clone, Debug)]
struct Program {
    control: Control,
    states: LineStates,
    starts: Arc<AtomicU64>,
}

impl ServerWatch {
    /// Returns a snapshot. The cost is linear in the number of open lines, and the lines are not slowed down.
    pub fn now(&self) -> ServerView {
        let (mut view, lines) = {
            let seen = self.lock();
            let (connected, mut report, traffic) = (seen.connected, seen.report, seen.over);
            let restarts = report.restarted;
            let (breaker, retry_after) = (self.breaker.state(), self.breaker.retry_after());
            let lines = Vec::new();
            let programs = seen.programs.as_ref().and_then(ProgramCount::view);
            report.lost += programs.as_ref().map_or(0, |programs| programs.lost);
            let view = ServerView {
                connected,
                report,
                lines,
                traffic,
                restarts,
                breaker,
                retry_after,
                programs,
            };
            (view, seen.lines.clone())
        };
        for (id, Line { client, program }) in lines {
            let (client, program) = (client.info(), program.map(Program::view));
            view.traffic.add(&client);
            view.restarts += program.as_ref().map_or(0, |program| program.restarts);
            view.lines.push(LineView { id, client, program });
        }
        view
    }

    /// Returns the circuit breaker for starting far sides.
    pub(crate) fn breaker(&self) -> SharedBreaker {
        self.breaker.clone()
    }

    pub(crate) fn programs(&self, programs: ProgramCount) {
        self.lock().programs = Some(programs);
    }

    pub(crate) fn client_connected(&self) {
        self.lock().connected += 1;
    }

    pub(crate) fn begun(&self, id: u64, client: Control) {
        self.lock().lines.insert(id, Line { client, program: None });
    }

    /// Removes a line that ended and sets the new totals, under one lock so that no counter ever decreases.
    pub(crate) fn over(&self, id: u64, report: ServerReport) {
        let mut seen = self.lock();
        seen.report = report;
        if let Some(line) = seen.lines.remove(&id) {
            seen.over.add(&line.client.info());
        }
    }

    pub(crate) fn report(&self, report: ServerReport) {
        self.lock().report = report;
    }

    /// Sets the far side of line `id`; `starts` counts how often it was started.
    pub(crate) fn joined(&self, id: u64, far: &Link, starts: Arc<AtomicU64>) {
        let program = Program { control: far.control().clone(), states: far.states(), starts };
        if let Some(line) = self.lock().lines.get_mut(&id) {
            line.program = Some(program);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

impl Default for ServerWatch {
    fn default() -> Self {
        Self { seen: Arc::default(), breaker: SharedBreaker::new(BreakerConfig::default()) }
    }
}

impl Program {
    fn view(self) -> ProgramView {
        ProgramView {
            state: self.states.present(),
            pid: self.control.child(),
            is_stopped: self.control.is_child_stopped(),
            restarts: self.starts.load(Relaxed).saturating_sub(1),
        }
    }
}

/// A connector that counts how often it has connected.
pub(crate) struct Counting {
    pub(crate) target: Arc<dyn DynConnector>,
    pub(crate) starts: Arc<AtomicU64>,
}

impl DynConnector for Counting {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async {
            let connected = self.target.connect().await;
            if connected.is_ok() {
                self.starts.fetch_add(1, Relaxed);
            }
            connected
        })
    }
}
