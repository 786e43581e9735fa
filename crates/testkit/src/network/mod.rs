//! A simulated network: a [`Transport`] that delays bytes and breaks connections.
//!
//! ```text
//!   connect ─▶ Half ══ SimulatedLine: two Ways of bytes, each with its delay ══ Half ─▶ accept
//!                        cut after any byte, and noticed late
//! ```
//!
//! The clock is Tokio's, which tests pause. All other behavior is generated from a seed. A connection
//! may be cut after any byte of either direction, or after some time. Bytes in transit may then be lost.
//! Each side notices the cut at a different time, and considers the connection alive until then. A
//! connection may also reach the listener late, and the first bytes of a client may arrive a second
//! time, over a connection that has no client.

mod half;
mod simulated_line;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tieline_transport::{
    Capabilities, ConfigError, Connection, ControlBuilder, Endpoint, ErrorKind, IoConnection,
    Listener, Operation, Options, PerformanceProfile, Transport, TransportConfig, TransportError,
    TransportKind,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::random::Random;
use half::{Reading, Writing};
use simulated_line::{Plan, SimulatedLine};

/// A simulated network. Clones share the same network.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

struct State {
    random: Random,
    /// The time at which failures stop.
    calm: Instant,
    /// The properties of all connections, if they are not generated.
    slow: Option<Slow>,
    /// Whether connection attempts are refused.
    is_down: bool,
    listener: Option<mpsc::UnboundedSender<NetworkConnection>>,
    lines: Vec<Arc<SimulatedLine>>,
    events: Events,
}

/// The properties of a slow connection, which behaves like one with Linux at both ends.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    /// The number of bytes that arrive per second, in each direction.
    pub rate: u64,
    /// The number of bytes that can be in transit. A waiting writer continues when a third of this
    /// buffer is free.
    pub buffer: usize,
    /// Whether the writer can query the number of bytes in transit
    /// ([`WriteEnd::unsent`](tieline_transport::WriteEnd)), which is not possible if a proxy holds them.
    pub tells: bool,
    /// The number of bytes in either direction after which the connection is cut, if any.
    pub cut_behind: Option<u64>,
}

impl Slow {
    fn plan(self) -> Plan {
        Plan {
            calm: Instant::now() + Duration::from_secs(1 << 30),
            delay: Duration::from_millis(20),
            slow: Some(self),
            window: self.buffer,
            cut_behind: [self.cut_behind; 2],
            cut_after: None,
            loses: [true; 2],
            learns: [Duration::ZERO; 2],
            late: None,
            ghost: None,
        }
    }
}

/// Counts of connections and failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Connections that were made, except those that have no client.
    pub connections: u64,
    /// Connections that were cut.
    pub cuts: u64,
    /// Greetings that arrived again over a connection without a client.
    pub ghosts: u64,
    /// Connections that reached the listener late.
    pub late: u64,
}

impl Events {
    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.cuts += other.cuts;
        self.ghosts += other.ghosts;
        self.late += other.late;
    }
}

/// One end of a connection.
pub type NetworkConnection = IoConnection<Reading, Writing>;

const KIND: TransportKind = TransportKind::custom("net");

impl Network {
    /// Creates a network whose failures are generated from `seed`. The failures stop after
    /// the duration `wild`.
    pub fn new(seed: u64, wild: Duration) -> Self {
        let calm = Instant::now() + wild;
        let (random, events) = (Random::new(seed), Events::default());
        let state = State {
            random,
            calm,
            slow: None,
            is_down: false,
            listener: None,
            lines: Vec::new(),
            events,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Creates a network whose connections are all slow in the same way and have no random failures.
    pub fn slow(slow: Slow) -> Self {
        let network = Self::new(1, Duration::ZERO);
        network.state().slow = Some(slow);
        network
    }

    /// Returns the endpoint of the network's only listener.
    pub fn endpoint() -> Endpoint {
        "net:here".parse().unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Returns the time at which failures stop.
    pub fn calm(&self) -> Instant {
        self.state().calm
    }

    /// Cuts all connections. Both sides notice this at once.
    pub fn cut_all(&self) {
        let lines = std::mem::take(&mut self.state().lines);
        for line in lines {
            line.cut([Duration::ZERO; 2]);
        }
    }

    /// Sets whether attempts to connect are refused.
    pub fn refuse_all(&self, refuses: bool) {
        self.state().is_down = refuses;
    }

    /// Returns the counts so far.
    pub fn events(&self) -> Events {
        let state = self.state();
        let cuts = state.lines.iter().filter(|line| line.is_cut()).count() as u64;
        Events { cuts: state.events.cuts + cuts, ..state.events }
    }

    /// Returns whether this is the only handle. Clones of the transport, and connectors created from
    /// them, are other handles.
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Returns the number of halves of connections that are not dropped yet.
    pub fn halves(&self) -> usize {
        self.state().lines.iter().map(|line| line.halves()).sum()
    }
}

impl State {
    /// Generates the failures of a new connection.
    fn plan(&mut self) -> Plan {
        if let Some(slow) = self.slow {
            return slow.plan();
        }
        let is_wild = Instant::now() < self.calm;
        let random = &mut self.random;
        let milliseconds = |of: &[u64], random: &mut Random| Duration::from_millis(random.pick(of));
        let mut plan = Plan {
            calm: self.calm,
            delay: milliseconds(&[0, 1, 20, 150], random),
            slow: None,
            window: random.pick(&[200, 1_000, 20_000, 64_000]) as usize,
            cut_behind: [None, None],
            cut_after: None,
            loses: [random.percent(50), random.percent(50)],
            learns: [(); 2].map(|()| milliseconds(&[0, 0, 1, 100, 5_000, 20_000], random)),
            late: None,
            ghost: None,
        };
        if !is_wild {
            return plan;
        }
        for behind in &mut plan.cut_behind {
            if random.percent(70) {
                let most = random.pick(&[90, 250, 1_000, 20_000]);
                *behind = Some(random.below(most));
            }
        }
        if random.percent(40) {
            plan.cut_after = Some(Duration::from_millis(random.below(8_000)));
        }
        if random.percent(10) {
            plan.late = Some(Duration::from_millis(random.below(6_000)));
        }
        if random.percent(10) {
            plan.ghost = Some(Duration::from_millis(random.below(6_000)));
        }
        plan
    }
}

fn end(line: &Arc<SimulatedLine>, side: usize) -> NetworkConnection {
    let control = ControlBuilder {
        kind: KIND,
        endpoint: Network::endpoint(),
        peer: None,
        capabilities: Capabilities { half_close: true, ..Capabilities::default() },
        profile: PROFILE,
        backing: Arc::new(()),
    };
    let (read, write) = (Reading::new(line.clone(), side), Writing::new(line.clone(), side));
    IoConnection::new(read, write, control.build())
}

const PROFILE: PerformanceProfile = PerformanceProfile {
    connect: Duration::from_millis(50),
    round_trip: Duration::from_millis(50),
    throughput: tieline_proto::ByteSize::mib(1),
};

/// A configuration without options.
#[derive(Clone, Debug)]
pub struct Nothing;

impl TransportConfig for Nothing {
    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}

impl Transport for Network {
    type Config = Nothing;
    type Connection = NetworkConnection;
    type Listener = NetworkListener;

    fn kind(&self) -> TransportKind {
        KIND
    }

    fn profile(&self) -> PerformanceProfile {
        PROFILE
    }

    fn config(&self, _: &Endpoint, _: &Options) -> Result<Nothing, TransportError> {
        Ok(Nothing)
    }

    async fn connect(&self, _: &Nothing) -> Result<NetworkConnection, TransportError> {
        let (plan, takes) = {
            let mut state = self.state();
            (state.plan(), Duration::from_millis(1 + state.random.below(100)))
        };
        sleep(takes).await;
        let refused = || TransportError::new(ErrorKind::Refused, Operation::Connect);
        let listener = {
            let state = self.state();
            state.listener.clone().filter(|_| !state.is_down).ok_or_else(refused)?
        };
        let line = Arc::new(SimulatedLine::new(plan));
        let (ours, theirs) = (end(&line, 0), end(&line, 1));
        {
            let mut state = self.state();
            state.lines.push(line.clone());
            state.events.connections += 1;
            state.events.late += u64::from(plan.late.is_some());
            // Forget connections whose halves are all dropped.
            let (done, lines) =
                std::mem::take(&mut state.lines).into_iter().partition(|line| line.halves() == 0);
            state.lines = lines;
            let done: Vec<Arc<SimulatedLine>> = done;
            state.events.cuts += done.iter().filter(|line| line.is_cut()).count() as u64;
        }
        match plan.late {
            None => listener.send(theirs).map_err(|_| refused())?,
            Some(late) => {
                let listener = listener.clone();
                tokio::spawn(async move {
                    sleep(late).await;
                    let _ = listener.send(theirs);
                });
            }
        }
        if let Some(after) = plan.cut_after {
            tokio::spawn(cut_after(line.clone(), after, plan));
        }
        if let Some(after) = plan.ghost {
            tokio::spawn(self.clone().haunt(line, after, listener));
        }
        Ok(ours)
    }

    async fn listen(&self, _: &Nothing) -> Result<NetworkListener, TransportError> {
        let (listener, arrivals) = mpsc::unbounded_channel();
        self.state().listener = Some(listener);
        Ok(NetworkListener { arrivals, network: self.clone(), endpoint: Self::endpoint() })
    }
}

async fn cut_after(line: Arc<SimulatedLine>, after: Duration, plan: Plan) {
    sleep(after).await;
    if Instant::now() < plan.calm {
        line.cut(plan.learns);
    }
}

impl Network {
    /// Replays the first bytes of a client over another connection, which then stays silent for a while.
    async fn haunt(
        self,
        line: Arc<SimulatedLine>,
        after: Duration,
        listener: mpsc::UnboundedSender<NetworkConnection>,
    ) {
        sleep(after).await;
        let said = line.said_first();
        drop(line);
        if said.is_empty() {
            return;
        }
        let (ghost, late) = {
            let mut state = self.state();
            state.events.ghosts += 1;
            let calm = Plan { cut_behind: [None, None], ..state.plan() };
            let ghost = Arc::new(SimulatedLine::new(calm));
            state.lines.push(ghost.clone());
            (ghost, Duration::from_millis(state.random.below(6_000)))
        };
        let (ours, theirs) = (end(&ghost, 0), end(&ghost, 1));
        ghost.say(&said);
        let _ = listener.send(theirs);
        sleep(late).await;
        drop(ours);
    }
}

/// The listener of a [`Network`]. Dropping it ends the connections that were not accepted yet.
pub struct NetworkListener {
    arrivals: mpsc::UnboundedReceiver<NetworkConnection>,
    network: Network,
    endpoint: Endpoint,
}

impl Listener for NetworkListener {
    type Connection = NetworkConnection;

    async fn accept(&mut self) -> Result<NetworkConnection, TransportError> {
        let gone = || TransportError::new(ErrorKind::Io, Operation::Accept);
        self.arrivals.recv().await.ok_or_else(gone)
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for NetworkListener {
    fn drop(&mut self) {
        self.network.state().listener = None;
    }
}

const _: fn() = || {
    fn is_a_connection<C: Connection>() {}
    is_a_connection::<NetworkConnection>();
};
