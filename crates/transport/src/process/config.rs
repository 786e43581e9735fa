//! The configuration of a child process.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tieline_proto::ByteSize;

use crate::account::ProcessAccount;
use crate::child_stderr::ChildStderr;
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::error::ConfigError;
use crate::guardian::{Guardian, Hold};
use crate::options::{StopTimeouts, validate_timeout};
use crate::profile::PerformanceProfile;
use crate::transport::TransportConfig;

/// The configuration of [`Process`](super::Process). No shell is involved: the arguments are passed
/// unchanged. `Debug` hides the parts of them that look like secrets.
#[derive(Clone)]
pub struct ProcessConfig {
    /// The program: a path, or a name to search for in the `PATH` of this process, not the child's.
    pub program: OsString,
    /// The arguments.
    pub args: Vec<OsString>,
    /// The working directory; inherited by default.
    pub cwd: Option<PathBuf>,
    /// The environment variables; inherited by default.
    pub env: Environment,
    /// How long each stage of stopping may take.
    pub stop: StopTimeouts,
    /// The guardian, which kills the child's remaining descendants when the line ends. Without a
    /// guardian, which is the default, only the child's process group is killed.
    pub guardian: Option<Guardian>,
    /// The account that counts the child and how it ended.
    pub account: Option<ProcessAccount>,
    /// How the child's output on stderr is handled; it is logged by default.
    pub stderr: ChildStderr,
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
            .field("stderr", &self.stderr)
            .finish()
    }
}

impl ProcessConfig {
    /// Returns the default configuration for `program`, without arguments.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            cwd: None,
            env: Environment::default(),
            stop: StopTimeouts::default(),
            guardian: None,
            account: None,
            stderr: ChildStderr::Log,
        }
    }

    /// Appends arguments.
    #[must_use]
    pub fn with_args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Returns a readable name for the child: the file name of its program.
    pub fn name(&self) -> String {
        let program = std::path::Path::new(&self.program);
        program.file_name().unwrap_or(&self.program).to_string_lossy().into_owned()
    }

    pub(super) fn endpoint(&self) -> Endpoint {
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

pub(crate) const PROFILE: PerformanceProfile = PerformanceProfile {
    // The time to start a small program.
    connect: Duration::from_millis(10),
    round_trip: Duration::from_millis(1),
    throughput: ByteSize::new(10_000_000),
};
