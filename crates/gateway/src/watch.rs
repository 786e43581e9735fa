//! What a server is doing, for those who ask. Nothing is counted for it: a line's own counters are read
//! when somebody wants to know.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tieline_link::{Link, SharedBreaker, State, States};
use tieline_proto::{BreakerConfig, BreakerState};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, ConnectionInfo, Control, DynConnector, Traffic, TransportError,
};

use crate::ServerReport;

/// Looks at a [`Server`](crate::Server), also while it runs and afterwards
/// ([`Server::watch`](crate::Server::watch)). Clones look at the same one; it keeps nothing alive.
#[derive(Clone, Debug)]
pub struct ServerWatch {
    seen: Arc<Mutex<Seen>>,
    breaker: SharedBreaker,
}

/// What a server is doing at a moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerView {
    /// Clients that have come, those that were turned away included.
    pub came: u64,
    /// What became of those whose lines are over.
    pub report: ServerReport,
    /// The lines there are, in the order in which they began.
    pub lines: Vec<LineView>,
    /// What moved on the lines that are over and on those there are.
    pub traffic: Traffic,
    /// How often the far ends of all lines, those that are over included, were replaced.
    pub restarts: u64,
    /// Whether far ends are begun: not for a while, once five in a row could not be, or have failed before
    /// anything was said on either side and before they had run for a second.
    pub breaker: BreakerState,
    /// When they are tried again, if they are not begun now.
    pub retry_after: Option<Duration>,
}

/// A line there is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LineView {
    /// Its number, as in the log and in the tap.
    pub id: u64,
    /// The client and what moved between it and us: in is what it has said.
    pub client: ConnectionInfo,
    /// Its far end; `None` before there is one.
    pub program: Option<ProgramView>,
}

/// The far end of a line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProgramView {
    /// How far it has come.
    pub state: State,
    /// The number of its process, while that runs.
    pub pid: Option<u32>,
    /// Whether it was stopped by a signal, as SIGSTOP does, and does nothing until SIGCONT.
    pub is_stopped: bool,
    /// How often it was replaced.
    pub restarts: u64,
}

#[derive(Debug, Default)]
struct Seen {
    came: u64,
    report: ServerReport,
    lines: BTreeMap<u64, Line>,
    over: Traffic,
}

#[derive(Clone, Debug)]
struct Line {
    client: Control,
    program: Option<Program>,
}

#[derive(Clone, Debug)]
struct Program {
    control: Control,
    states: States,
    starts: Arc<AtomicU64>,
}

impl ServerWatch {
    /// What it is doing now. It costs as much as there are lines, and the lines nothing.
    pub fn now(&self) -> ServerView {
        let (mut view, lines) = {
            let seen = self.lock();
            let (came, report, traffic) = (seen.came, seen.report, seen.over);
            let restarts = report.restarted;
            let (breaker, retry_after) = (self.breaker.state(), self.breaker.retry_after());
            let lines = Vec::new();
            let view = ServerView { came, report, lines, traffic, restarts, breaker, retry_after };
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

    /// For the beginnings of far ends.
    pub(crate) fn breaker(&self) -> SharedBreaker {
        self.breaker.clone()
    }

    pub(crate) fn came(&self) {
        self.lock().came += 1;
    }

    pub(crate) fn begun(&self, id: u64, client: Control) {
        self.lock().lines.insert(id, Line { client, program: None });
    }

    /// A line is over, and with it all lines that are have come to this: told at once, so that nothing
    /// that is counted ever goes back.
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

    /// The far end of line `id` comes from `starts`.
    pub(crate) fn joined(&self, id: u64, far: &Link, starts: Arc<AtomicU64>) {
        let program = Program { control: far.control().clone(), states: far.states(), starts };
        if let Some(line) = self.lock().lines.get_mut(&id) {
            line.program = Some(program);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
