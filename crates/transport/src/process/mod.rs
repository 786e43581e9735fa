//! A child process on pipes: its stdin and stdout are the line, its stderr is always read.
//!
//! The child leads a process group of its own. When the line ends, however it ends, the group is
//! ended with it, and with a [`Guardian`] all that came of the child, whatever it did to get away. How a
//! child is started is [`start`]'s, and how it is held is [`held`]'s; its life is [`lifecycle`]'s, and
//! signals and reaping are nobody else's. Windows has its own of what is named after `cfg(unix)`, in
//! `windows/process`.

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
pub use inherited::{is_signal_ignored, reset_inherited};
pub use pipes::ChildStdout;
pub use reaper::until_children_are_gone;
#[cfg(target_os = "linux")]
pub use reaper::{adopt_orphans, reap_orphans};
pub use resolve::resolve;
pub use stdin::ChildStdin;

use crate::options::validate_timeout;
#[cfg(windows)]
use crate::windows::process::{held, pipes, reaper, resolve, start};
use crate::{
    Address, ConfigError, Endpoint, Environment, ErrorKind, Guardian, Hold, IoConnection,
    NoListener, Operation, Options, PerformanceProfile, ProcessAccount, StopTimeouts, Transport,
    TransportConfig, TransportError, TransportKind,
};
#[cfg(target_os = "linux")]
pub(crate) use guardian::guard;
use launch::launch;
#[cfg(windows)]
pub(crate) use lifecycle::{End, Lifecycle};

/// Child processes on pipes. Each connection starts one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

/// The connection to a child process.
///
/// Shutting down the writing half closes the child's stdin. The stream ends when the child's stdout
/// does, or [`StopTimeouts::drain`] after the child has ended, whichever comes first.
pub type ProcessConnection = IoConnection<ChildStdout, ChildStdin>;

/// What [`Process`] needs to know. There is no shell: the arguments arrive as they are. `Debug` leaves out
/// what looks like a secret in them.
#[derive(Clone)]
pub struct ProcessConfig {
    /// The program: a path, or a name to look for in our own `PATH`, whatever the child's will be.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its working directory; ours by default.
    pub cwd: Option<PathBuf>,
    /// Its environment variables; ours by default.
    pub env: Environment,
    /// How long each stage of stopping may take.
    pub stop: StopTimeouts,
    /// What stands between us and the child, so that nothing that comes of it is left; none by
    /// default, and then its process group is all that is ended with it.
    pub guardian: Option<Guardian>,
    /// Where it is counted how it ended, and what it left.
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
    /// `program` with no arguments and the defaults.
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

    /// The same with these arguments behind those it has.
    #[must_use]
    pub fn with_args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// What a person calls the child: the file name of its program.
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
            return Err(ConfigError { field: "args", must: "hold no NUL byte" });
        }
        let isolates = self.guardian.as_ref().is_some_and(|it| it.hold() == Hold::Isolated);
        if isolates && cfg!(not(target_os = "linux")) {
            let must = "not isolate: that is possible on Linux alone";
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
            return Err(crate::registry::foreign(endpoint));
        };
        let (program, args) =
            argv.split_first().ok_or_else(|| crate::registry::foreign(endpoint))?;
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
    // What it takes to start a small program.
    connect: Duration::from_millis(10),
    round_trip: Duration::from_millis(1),
    throughput: ByteSize::new(10_000_000),
};
