//! How many programs a server runs for its clients, and which client uses which program.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tieline_proto::jsonrpc::{Dialect, Sharing};
use tieline_transport::{Control, DynConnector, Owner};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Bridge;
use crate::lock::lock;
use crate::pool::{Pool, PoolCounts, PoolOptions, PoolTasks};
use crate::probe::probed;
use crate::shared::{ProgramOptions, SharedProgram};

/// Which clients of a server use the same program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessModel {
    /// Each client has a program of its own.
    #[default]
    PerClient,
    /// All clients use the same program.
    Shared,
    /// The clients of one user use the same program. A user is the one that the operating system
    /// reports, together with the principal that a token or a certificate has authenticated. A client
    /// without either is refused.
    PerUser,
    /// Each client has a program of its own, and this many are started ahead. A program is used by one
    /// client only, and then replaced. A client that finds none is connected to one that is started for it.
    Pool(NonZeroUsize),
}

impl ProcessModel {
    /// The models without a number, the default first.
    const NAMED: [(&'static str, Self); 3] =
        [("per-client", Self::PerClient), ("shared", Self::Shared), ("per-user", Self::PerUser)];
}

/// `per-client`, `shared`, `per-user` or `pool:N`.
impl fmt::Display for ProcessModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerClient => f.write_str("per-client"),
            Self::Shared => f.write_str("shared"),
            Self::PerUser => f.write_str("per-user"),
            Self::Pool(warm) => write!(f, "pool:{warm}"),
        }
    }
}

/// An error for a text that is not a [`ProcessModel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProcessModel;

impl fmt::Display for UnknownProcessModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected per-client, shared, per-user, or pool:N with N from 1")
    }
}

impl std::error::Error for UnknownProcessModel {}

impl FromStr for ProcessModel {
    type Err = UnknownProcessModel;

    fn from_str(name: &str) -> Result<Self, UnknownProcessModel> {
        if let Some(warm) = name.strip_prefix("pool:") {
            let is_number = warm.bytes().all(|byte| byte.is_ascii_digit());
            let warm = warm.parse().ok().filter(|_| is_number);
            return warm.map(Self::Pool).ok_or(UnknownProcessModel);
        }
        let mut named = Self::NAMED.into_iter();
        named.find(|(it, _)| *it == name).map(|(_, model)| model).ok_or(UnknownProcessModel)
    }
}

/// How a server runs its programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processes {
    /// Which clients use the same program.
    pub model: ProcessModel,
    /// How long a program without clients is kept; 5 min by default. This applies only to programs that
    /// clients share.
    pub idle_timeout: Duration,
    /// How many programs may run at once; 64 by default. This applies to programs that clients share, and to
    /// those of a pool, with and without a client. A client that would need another one is refused.
    pub max_programs: usize,
}

impl Default for Processes {
    fn default() -> Self {
        let idle_timeout = Duration::from_secs(5 * 60);
        Self { model: ProcessModel::PerClient, idle_timeout, max_programs: 64 }
    }
}

/// The error for a process model that the dialect's programs do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotShareable {
    /// There is no dialect, so messages are passed on unread.
    NoDialect,
    /// The programs of this dialect cannot be shared.
    Dialect {
        /// The dialect's name.
        name: &'static str,
        /// The reason, as a sentence.
        why: &'static str,
    },
    /// A pool keeps more programs warm than may run.
    PoolTooLarge {
        /// How many may run.
        limit: usize,
    },
}

impl fmt::Display for NotShareable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDialect => {
                f.write_str("clients can only share a program if the protocol is known")
            }
            Self::Dialect { name, why } => {
                write!(f, "clients cannot share a program of the dialect {name}: {why}")
            }
            Self::PoolTooLarge { limit: 1 } => f.write_str("at most 1 program may run"),
            Self::PoolTooLarge { limit } => write!(f, "at most {limit} programs may run"),
        }
    }
}

impl std::error::Error for NotShareable {}

/// The programs that clients share, or those of a pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProgramsView {
    /// Which clients use the same program.
    pub model: ProcessModel,
    /// How many run now, including those that are being started or ended.
    pub running: usize,
    /// How many may run.
    pub limit: usize,
    /// Messages between clients and these programs that were not passed on, in addition to those that the
    /// clients' lines count.
    pub lost: u64,
    /// How many of the programs have a client, if they are those of a pool.
    pub pool: Option<PoolView>,
}

/// The programs of a [pool](ProcessModel::Pool).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolView {
    /// How many programs wait for a client.
    pub warm: usize,
    /// How many programs have a client.
    pub in_use: usize,
}

/// How many programs a server runs. It does not keep them alive.
#[derive(Clone, Debug)]
pub(crate) struct ProgramCount {
    processes: Processes,
    /// One permit for each program that may still be started.
    limit: Arc<Semaphore>,
    lost: Arc<AtomicU64>,
    pool: Arc<PoolCounts>,
}

impl ProgramCount {
    /// Returns how many messages of programs that clients share were not passed on.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Returns how many programs are running, or `None` if each client has its own.
    pub(crate) fn view(&self) -> Option<ProgramsView> {
        let Processes { model, max_programs: limit, .. } = self.processes;
        let running = limit.saturating_sub(self.limit.available_permits());
        let pool = matches!(model, ProcessModel::Pool(_)).then(|| {
            let (warm, in_use) = self.pool.view(running);
            PoolView { warm, in_use }
        });
        let lost = self.lost();
        let view = ProgramsView { model, running, limit, lost, pool };
        (model != ProcessModel::PerClient).then_some(view)
    }
}

/// The programs of a server.
#[derive(Clone)]
pub(crate) struct Programs {
    count: ProgramCount,
    /// The shared programs. There are none if each client has its own.
    shared: Arc<Mutex<Vec<Shared>>>,
    /// The pools, one for each target.
    pools: Arc<Mutex<Vec<Arc<Pool>>>>,
}

struct Shared {
    target: Arc<dyn DynConnector>,
    /// The owner of the program, or `None` if it is for all clients.
    owner: Option<Owner>,
    program: Arc<SharedProgram>,
}

/// The error of a client whose user is not known.
pub(crate) const NO_IDENTITY: &str =
    "this server runs one program for each user, and it is not known which user this is";

impl Programs {
    /// Creates the programs of a server. None is started yet.
    ///
    /// # Errors
    /// The dialect's programs cannot be shared, or a pool is larger than the number of programs that may run.
    pub(crate) fn new(
        processes: Processes,
        dialect: Option<Dialect>,
    ) -> Result<Self, NotShareable> {
        match processes.model {
            ProcessModel::PerClient => {}
            ProcessModel::Pool(warm) => {
                let limit = processes.max_programs;
                if warm.get() > limit {
                    return Err(NotShareable::PoolTooLarge { limit });
                }
            }
            ProcessModel::Shared | ProcessModel::PerUser => {
                let dialect = dialect.ok_or(NotShareable::NoDialect)?;
                if let Sharing::Impossible(why) = dialect.sharing {
                    return Err(NotShareable::Dialect { name: dialect.name, why });
                }
            }
        }
        let limit = Arc::new(Semaphore::new(processes.max_programs.min(Semaphore::MAX_PERMITS)));
        Ok(Self {
            count: ProgramCount { processes, limit, lost: Arc::default(), pool: Arc::default() },
            shared: Arc::default(),
            pools: Arc::default(),
        })
    }

    /// Starts to fill a pool for each target, if the programs are pooled.
    pub(crate) fn fill_pools<'a>(
        &self,
        targets: impl Iterator<Item = &'a Arc<dyn DynConnector>>,
        grace: Duration,
    ) -> PoolTasks {
        let mut tasks = PoolTasks::default();
        let ProgramCount { processes, limit, pool: counts, .. } = &self.count;
        let ProcessModel::Pool(warm) = processes.model else { return tasks };
        let options = PoolOptions {
            warm: warm.get(),
            limit: limit.clone(),
            most: processes.max_programs,
            counts: counts.clone(),
        };
        let mut pools = lock(&self.pools);
        for target in targets {
            if !pools.iter().any(|pool| pool.is_of(target)) {
                let pool = Pool::new(target.clone(), options.clone());
                tasks.add(pool.clone(), grace);
                pools.push(pool);
            }
        }
        tasks
    }

    /// Returns the connector for a client of the listener with this `target`, or `None` if the client
    /// has no identity but needs one. The programs are pinged every `probe`, if the dialect has a ping.
    pub(crate) fn for_client(
        &self,
        target: &Arc<dyn DynConnector>,
        client: &Control,
        bridge: &Bridge,
        probe: Option<Duration>,
    ) -> Option<Arc<dyn DynConnector>> {
        let own = |target| Some(probed(target, bridge.dialect, probe));
        let owner = match self.count.processes.model {
            ProcessModel::PerClient => return own(target.clone()),
            ProcessModel::Pool(_) => {
                let pools = lock(&self.pools);
                let pool = pools.iter().find(|pool| pool.is_of(target));
                return own(pool.map_or_else(|| target.clone(), Pool::for_client));
            }
            ProcessModel::Shared => None,
            ProcessModel::PerUser => {
                let owner = Owner::of(client);
                if owner.user.is_none() && owner.principal.is_none() {
                    return None;
                }
                Some(owner)
            }
        };
        let (dialect, rules) = match bridge.dialect {
            Some(dialect @ Dialect { sharing: Sharing::Possible(rules), .. }) => (dialect, rules),
            _ => return own(target.clone()),
        };
        let mut shared = self.lock();
        // Remove programs that have ended and are no longer in use.
        shared.retain(|it| it.program.is_in_use());
        let is_it = |it: &Shared| Arc::ptr_eq(&it.target, target) && it.owner == owner;
        if let Some(found) = shared.iter().find(|it| is_it(it)) {
            return Some(found.program.for_client());
        }
        let options = ProgramOptions {
            dialect,
            rules,
            idle_timeout: self.count.processes.idle_timeout,
            memory: bridge.memory.clone(),
            limit: self.count.limit.clone(),
            most: self.count.processes.max_programs,
            lost: self.count.lost.clone(),
        };
        let probed = probed(target.clone(), bridge.dialect, probe);
        let program = SharedProgram::new(probed, options);
        let connector = program.for_client();
        shared.push(Shared { target: target.clone(), owner, program });
        Some(connector)
    }

    pub(crate) fn count(&self) -> ProgramCount {
        self.count.clone()
    }

    /// Stops all programs in stages.
    pub(crate) async fn stop(&self) {
        let mut stopping = JoinSet::new();
        for it in self.lock().iter() {
            let program = it.program.clone();
            stopping.spawn(async move { program.stop().await });
        }
        stopping.join_all().await;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Shared>> {
        lock(&self.shared)
    }
}
