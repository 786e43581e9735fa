//! A child process connected by pipes: its stdin and stdout are the line, and its stderr is always read.
//!
//! The child leads its own process group. When the line ends, for whatever reason, the group is killed,
//! and with a [`Guardian`] all descendants of the child, even if they try to escape. [`start`] starts a
//! child, [`held`] contains it, and [`lifecycle`] is the only module that signals and reaps it. Windows
//! replaces the `cfg(unix)` modules with those in `windows/process`.

#[cfg(unix)]
mod ended;
#[cfg(target_os = "linux")]
mod guardian;
#[cfg(unix)]
mod held;
#[cfg(unix)]
mod inherited;
mod launch;
mod lifecycle;
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

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tieline_proto::ByteSize;

#[cfg(unix)]
pub use inherited::{is_signal_ignored, reset_inherited, was_started_without_stdout};
pub use pipes::ChildStdout;
pub use reaper::until_children_are_gone;
#[cfg(target_os = "linux")]
pub use reaper::{adopt_orphans, reap_orphans};
pub use resolve::resolve;
pub use stdin::ChildStdin;

use crate::account::ProcessAccount;
use crate::connection::IoConnection;
use crate::endpoint::{Address, Endpoint};
use crate::environment::Environment;
use crate::error::{ConfigError, ErrorKind, Operation, TransportError};
use crate::guardian::{Guardian, Hold};
use crate::info::TransportKind;
use crate::options::{Options, StopTimeouts, validate_timeout};
use crate::profile::PerformanceProfile;
use crate::transport::{NoListener, Transport, TransportConfig};
#[cfg(windows)]
use crate::windows::process::{held, pipes, reaper, resolve, start};
#[cfg(target_os = "linux")]
pub(crate) use guardian::guard;
use launch::launch;
#[cfg(windows)]
pub(crate) use lifecycle::{End, Lifecycle};

/// Child processes connected by pipes. Each connection starts one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

/// The connection to a child process.
///
/// Shutting down the write half closes the child's stdin. The stream ends when the child's stdout does, or
/// [`StopTimeouts::drain`] after the child has ended, whichever comes first.
pub type ProcessConnection = IoConnection<ChildStdout, ChildStdin>;

/// The configuration of [`Process`]. No shell is involved: the arguments are passed unchanged. `Debug`
/// leaves out what looks like a secret in them.
#[derive(Clone)]
pub struct ProcessConfig {
    /// The program: a path, or a name to search for in our own `PATH`, whatever the child's is.
    pub program: OsString,
    /// The arguments.
    pub args: Vec<OsString>,
    /// The working directory; ours by default.
    pub cwd: Option<PathBuf>,
    /// The environment variables; ours by default.
    pub env: Environment,
    /// How long each stage of stopping may take.
    pub stop: StopTimeouts,
    /// The guardian, which ensures that no descendant of the child survives it. None by default: then only
    /// the child's process group is killed with it.
    pub guardian: Option<Guardian>,
    /// Counts the child and how it ended.
    pub account: Option<ProcessAccount>,
}

impl fmt::Debug for ProcessConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessConfig")
            .field("command", &self.endpoint())
            .field("cwd", &self.cwd)
            .field("env", &self.env)
            .field("stop", &self.stop)
            .field("guardian", &self.guardian)
            .field("account", &self.account)
            .finish()
    }
}

impl ProcessConfig {
    /// Returns a configuration for `program` with no arguments and the defaults.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            cwd: None,
            env: Environment::default(),
            stop: StopTimeouts::default(),
            guardian: None,
            account: None,
        }
    }

    /// Appends arguments.
    #[must_use]
    pub fn with_args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Returns a name of the child for people: the file name of its program.
    pub fn name(&self) -> String {
        let program = std::path::Path::new(&self.program);
        program.file_name().unwrap_or(&self.program).to_string_lossy().into_owned()
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::exec(&self.program, &self.args)
    }
}

impl TransportConfig for ProcessConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let has_nul = |text: &OsString| text.as_encoded_bytes().contains(&0);
        if self.program.is_empty() || has_nul(&self.program) {
            return Err(ConfigError { field: "program", must: "be a name or a path" });
        }
        if self.args.iter().any(has_nul) {
            return Err(ConfigError { field: "args", must: "contain no NUL byte" });
        }
        let isolates = self.guardian.as_ref().is_some_and(|it| it.hold() == Hold::Isolated);
        if isolates && cfg!(not(target_os = "linux")) {
            let must = "not isolate: isolation requires Linux";
            return Err(ConfigError { field: "guardian", must });
        }
        self.env.validate()?;
        validate_timeout("stop.drain", self.stop.drain)
    }
}

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
            return Err(crate::endpoint::foreign(endpoint));
        };
        let (program, args) =
            argv.split_first().ok_or_else(|| crate::endpoint::foreign(endpoint))?;
        Ok(ProcessConfig {
            cwd: options.cwd.clone(),
            env: options.env.clone(),
            stop: options.stop,
            guardian: options.guardian.clone(),
            account: options.account.clone(),
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

pub(crate) const PROFILE: PerformanceProfile = PerformanceProfile {
    // The time to start a small program.
    connect: Duration::from_millis(10),
    round_trip: Duration::from_millis(1),
    throughput: ByteSize::new(10_000_000),
};
