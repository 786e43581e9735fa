//! The status response. Empty fields are omitted and unknown fields are ignored, so that clients and
//! servers of different versions can communicate.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tieline_gateway::{LineState, LineView, ProgramView, ProgramsView};
use tieline_http::{Place, WebAddress};
use tieline_proto::BreakerState;
use tieline_transport::{Address, Endpoint, PeerIdentity, SessionInfo};

use super::StatusSource;
use crate::names::Name;
use crate::terminal;

/// The maximum number of lines in a response. Further lines are only counted.
const MAX_LINES: usize = 1024;

/// The maximum number of characters of the reason why a program ended.
const CAUSE: usize = 300;

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct ServerStatus {
    pub(super) version: String,
    pub(super) pid: u32,
    /// The name that clients may use instead of an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// When the server started. This and all other times are in RFC 3339 format.
    pub(super) since: String,
    /// The served program, without its arguments, which may contain secrets.
    pub(super) command: String,
    pub(super) listeners: Vec<String>,
    pub(super) connections: Connections,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Memory>,
    /// The circuit breaker for starting programs; absent while it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) breaker: Option<Breaker>,
    /// The programs that clients share, or of a pool; absent if each client starts its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) programs: Option<Programs>,
    pub(super) lines: Vec<Line>,
    /// The number of lines beyond [`MAX_LINES`], which are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) lines_left_out: usize,
    pub(super) totals: Totals,
}

/// The memory held by unfinished messages and queues of all lines, beyond 64 KiB of each.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Memory {
    pub(super) used_bytes: u64,
    pub(super) limit_bytes: u64,
    /// Lines and requests that were ended at the memory limit.
    pub(super) refused: u64,
}

/// A circuit breaker that prevents or limits starts, because too many programs failed while starting.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Breaker {
    /// `open` or `half-open`.
    pub(super) state: String,
    /// The time until the next attempt, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_in_ms: Option<u64>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Programs {
    /// Which clients use the same program: `shared`, `per-user` or `pool:N`.
    pub(super) process: String,
    pub(super) running: usize,
    pub(super) limit: usize,
    /// The programs of a pool that have no client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warm: Option<usize>,
    /// The programs of a pool that have a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) in_use: Option<usize>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Connections {
    pub(super) now: u64,
    pub(super) ever: u64,
    pub(super) refused: u64,
}

/// A client and its program. "In" counts what the client sent.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Line {
    pub(super) id: u64,
    /// The client's transport.
    pub(super) kind: String,
    /// The endpoint that accepted the client.
    pub(super) endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peer: Option<Identity>,
    pub(super) since: String,
    pub(super) last_activity: String,
    pub(super) messages_in: u64,
    pub(super) messages_out: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) faults: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<Session>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) program: Option<Program>,
}

/// The state of a client's session.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Session {
    /// The number of the session's current or last connection, counted from 1.
    pub(super) epoch: u64,
    pub(super) connected: bool,
    /// The number of messages that the client has not acknowledged.
    pub(super) kept_messages: usize,
    /// The size of these messages.
    pub(super) kept_bytes: usize,
    /// The number of messages from the client that the program has not taken.
    pub(super) waiting_messages: usize,
    /// The number of messages for which the time until the acknowledgment was measured. The next fields
    /// are quantiles of this time.
    pub(super) measured: u64,
    pub(super) latency_p50_us: u64,
    pub(super) latency_p99_us: u64,
    pub(super) latency_max_us: u64,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Identity {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gid: Option<u32>,
    /// The user; only on Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Program {
    /// `connecting`, `running`, `stopped` (by a signal, until SIGCONT), `backoff`, `ending` or `ended`.
    pub(super) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    pub(super) restarts: u64,
    /// The time until the program is restarted, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_in_ms: Option<u64>,
    /// The reason why the program is not running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<String>,
}

/// Counters of all lines, including lines that have ended.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Totals {
    pub(super) messages_in: u64,
    pub(super) messages_out: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) faults: u64,
    pub(super) restarts: u64,
    /// The number of lines that have ended.
    pub(super) served: u64,
    /// The number of these lines that failed.
    pub(super) failed: u64,
    /// The number of messages that were lost on these lines.
    pub(super) lost: u64,
}

impl ServerStatus {
    pub(super) fn of(source: &StatusSource) -> Self {
        let view = source.watch.now();
        let traffic = view.traffic;
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            name: source.listeners.iter().find_map(Name::at).map(|name| name.as_str().to_owned()),
            since: rfc3339(source.since.1),
            command: source.command.clone(),
            listeners: source.listeners.iter().map(|it| it.exact().to_string()).collect(),
            connections: Connections {
                now: view.lines.len() as u64,
                ever: view.connected,
                refused: view.report.refused,
            },
            memory: Some(Memory {
                used_bytes: source.memory.used().bytes() as u64,
                limit_bytes: source.memory.limit().bytes() as u64,
                refused: source.memory.refused(),
            }),
            breaker: Breaker::of(view.breaker, view.retry_after),
            programs: view.programs.map(Programs::from),
            lines_left_out: view.lines.len().saturating_sub(MAX_LINES),
            lines: view.lines.into_iter().take(MAX_LINES).map(|it| Line::of(it, source)).collect(),
            totals: Totals {
                messages_in: traffic.messages_in,
                messages_out: traffic.messages_out,
                bytes_in: traffic.bytes_in,
                bytes_out: traffic.bytes_out,
                faults: traffic.faults,
                restarts: view.restarts,
                served: view.report.served,
                failed: view.report.failed,
                lost: view.report.lost,
            },
        }
    }
}

impl ServerStatus {
    /// Parses the known fields of a response, and escapes control characters.
    pub(super) fn parse(answer: &Value) -> Self {
        let mut answer = answer.clone();
        escape(&mut answer);
        serde::Deserialize::deserialize(answer).unwrap_or_default()
    }
}

fn escape(value: &mut Value) {
    match value {
        Value::String(text) => *text = terminal::line(text),
        Value::Array(values) => values.iter_mut().for_each(escape),
        Value::Object(members) => members.values_mut().for_each(escape),
        _ => {}
    }
}

impl Breaker {
    fn of(state: BreakerState, retry_after: Option<Duration>) -> Option<Self> {
        let state = match state {
            BreakerState::Closed => return None,
            BreakerState::HalfOpen => "half-open",
            _ => "open",
        };
        Some(Self { state: state.into(), retry_in_ms: retry_after.map(millis) })
    }
}

impl From<ProgramsView> for Programs {
    fn from(ProgramsView { model, running, limit, pool, .. }: ProgramsView) -> Self {
        let (warm, in_use) = (pool.map(|pool| pool.warm), pool.map(|pool| pool.in_use));
        Self { process: model.to_string(), running, limit, warm, in_use }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Line {
    fn of(LineView { id, client, program, .. }: LineView, source: &StatusSource) -> Self {
        // Compute times from the start of the server, so that a change of the system clock does not
        // change times that were already sent.
        let (begin, at_begin) = source.since;
        let time = |moment: Instant| rfc3339(at_begin + moment.saturating_duration_since(begin));
        Self {
            id,
            kind: client.kind.to_string(),
            endpoint: client.endpoint.absolute().exact().to_string(),
            peer: client.peer.map(Identity::from),
            since: time(client.since),
            last_activity: time(client.last_activity),
            messages_in: client.messages_in,
            messages_out: client.messages_out,
            bytes_in: client.bytes_in,
            bytes_out: client.bytes_out,
            faults: client.faults,
            session: client.session.map(|session| Session::from(*session)),
            program: program.map(Program::from),
        }
    }
}

impl From<SessionInfo> for Session {
    fn from(info: SessionInfo) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let latency = &info.latency;
        Self {
            epoch: info.epoch,
            connected: info.is_connected,
            kept_messages: info.kept_messages,
            kept_bytes: info.kept_bytes,
            waiting_messages: info.waiting_messages,
            measured: latency.count(),
            latency_p50_us: micros(latency.quantile(0.5)),
            latency_p99_us: micros(latency.quantile(0.99)),
            latency_max_us: micros(latency.max()),
        }
    }
}

impl From<PeerIdentity> for Identity {
    #[cfg(not(windows))]
    fn from(peer: PeerIdentity) -> Self {
        Self { pid: peer.pid, uid: Some(peer.uid), gid: Some(peer.gid), user: None }
    }

    #[cfg(windows)]
    fn from(peer: PeerIdentity) -> Self {
        let user = peer.user.map(|user| user.to_string());
        Self { pid: peer.pid, user, ..Self::default() }
    }
}

impl From<ProgramView> for Program {
    fn from(ProgramView { state, pid, is_stopped, restarts, .. }: ProgramView) -> Self {
        let (name, until, cause) = match state {
            LineState::Connected { .. } if is_stopped => ("stopped", None, None),
            LineState::Connected { .. } => ("running", None, None),
            LineState::Backoff { until, cause } => ("backoff", Some(until), Some(cause)),
            LineState::Draining => ("ending", None, None),
            LineState::Closed { reason, .. } => ("ended", None, Some(reason)),
            _ => ("connecting", None, None),
        };
        let left = until.map(|until| until.saturating_duration_since(tokio::time::Instant::now()));
        Self {
            state: name.into(),
            pid,
            restarts,
            retry_in_ms: left.map(millis),
            cause: cause.map(|cause| cause.to_string().chars().take(CAUSE).collect()),
        }
    }
}

/// Returns whether a status response lists `endpoint` among its listeners.
pub(super) fn listens_at(status: &Value, endpoint: &Endpoint) -> bool {
    let listeners = status.get("listeners").and_then(Value::as_array).into_iter().flatten();
    let listeners = listeners.filter_map(|it| it.as_str()?.parse::<Endpoint>().ok());
    let wanted = place(endpoint.address());
    listeners.into_iter().any(|it| place(it.address()) == wanted)
}

/// Normalizes an address for comparison. Resolves symbolic links in a socket's path, and reduces a web
/// endpoint to its host and port or its socket.
fn place(address: &Address) -> Address {
    let web = WebAddress::of(&Endpoint::new(address.clone())).ok().map(|web| web.place);
    match (address, &web) {
        (Address::Unix(path), _) | (_, Some(Place::Unix(path))) => Address::Unix(real(path).into()),
        (_, Some(Place::Pipe(name))) => Address::Pipe(name.clone()),
        (_, Some(Place::Tcp { host, port })) => Address::Tcp { host: host.clone(), port: *port },
        _ => address.clone(),
    }
}

fn real(path: &OsStr) -> PathBuf {
    let path = Path::new(path);
    std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or(path.to_owned())
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(tieline_gateway::printable(time)).to_string()
}

/// Returns the time that has passed since `time`, or `None` if the text is not a time.
pub(super) fn ago(time: &str) -> Option<Duration> {
    let time = humantime::parse_rfc3339(time).ok()?;
    Some(SystemTime::now().duration_since(time).unwrap_or_default())
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
