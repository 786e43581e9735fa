//! A child process connected by pipes: its stdin and stdout are the line, and its stderr is always read.
//!
//! The child leads its own process group. When the line ends, for any reason, the group is killed. With
//! a [`Guardian`](crate::Guardian), all descendants of the child are killed, even if they try to escape.
//! [`start`] starts a child, [`held`] contains it, and [`lifecycle`] is the only module that signals and
//! reaps it. Windows replaces the `cfg(unix)` modules with those in `windows/process`.

mod become_guardian;
pub(crate) mod config;
#[cfg(unix)]
mod detached;
pub(crate) mod end;
#[cfg(unix)]
mod ended;
#[cfg(target_os = "linux")]
mod guardian;
#[cfg(unix)]
mod held;
#[cfg(unix)]
mod inherited;
mod launch;
pub(crate) mod lifecycle;
#[cfg(unix)]
mod pipes;
#[cfg(unix)]
mod reaper;
#[cfg(unix)]
mod resolve;
#[cfg(unix)]
mod start;
mod stderr;
mod stdin;
mod unread;

use self::config::PROFILE;
use self::launch::launch;
use crate::endpoint::{Address, Endpoint, foreign};
use crate::error::{ErrorKind, Operation, TransportError};
use crate::info::TransportKind;
use crate::options::Options;
use crate::profile::PerformanceProfile;
use crate::transport::{NoListener, Transport};
#[cfg(windows)]
use crate::windows::process::{held, pipes, reaper, resolve, start};

pub use self::config::ProcessConfig;
#[cfg(unix)]
pub use self::detached::start_detached;
#[cfg(target_os = "linux")]
pub use self::guardian::group::check_cgroup;
#[cfg(unix)]
pub use self::inherited::{is_signal_ignored, reset_inherited, was_started_without_stdout};
pub use self::launch::ProcessConnection;
pub use self::pipes::ChildStdout;
pub use self::reaper::until_children_are_gone;
#[cfg(target_os = "linux")]
pub use self::reaper::{adopt_orphans, reap_orphans};
pub use self::resolve::resolve;
pub use self::stdin::ChildStdin;

/// Child processes connected by pipes. Each connection starts one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

impl Transport for Process {
    type Config = ProcessConfig;
    type Connection = ProcessConnection;
    type Listener = NoListener<ProcessConnection>;

    fn kind(&self) -> TransportKind {
        TransportKind::PROCESS
    }

    fn profile(&self) -> PerformanceProfile {
        PROFILE
    }

    fn config(
        &self,
        endpoint: &Endpoint,
        options: &Options,
    ) -> Result<ProcessConfig, TransportError> {
        let Address::Exec(argv) = endpoint.address() else {
            return Err(foreign(endpoint));
        };
        let (program, args) = argv.split_first().ok_or_else(|| foreign(endpoint))?;
        Ok(ProcessConfig {
            cwd: options.cwd.clone(),
            env: options.env.clone(),
            stop: options.stop,
            guardian: options.guardian.clone(),
            account: options.account.clone(),
            stderr: options.stderr.clone(),
            ..ProcessConfig::new(program).with_args(args)
        })
    }

    async fn connect(&self, config: &ProcessConfig) -> Result<ProcessConnection, TransportError> {
        let endpoint = config.endpoint();
        launch(config, &endpoint).await.map_err(|error| error.at(&endpoint))
    }

    async fn listen(
        &self,
        config: &ProcessConfig,
    ) -> Result<NoListener<ProcessConnection>, TransportError> {
        Err(TransportError::new(ErrorKind::UnsupportedOperation, Operation::Listen)
            .at(&config.endpoint())
            .with_hint("a child process cannot be listened on; connect to it"))
    }
}
