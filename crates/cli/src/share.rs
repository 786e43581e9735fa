//! `tieline share`: connects stdin and stdout to a program that several clients share. The first client starts a
//! server for it in the background.

mod early;
mod identity;
mod log;
mod server;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use serde_json::Value;
use tieline_gateway::{Bridge, BridgeEnd};
use tieline_transport::{
    BoxChannel, Endpoint, ErrorKind, MemoryBudget, Options, Registry, start_detached,
};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

pub(crate) use server::{Background, Stop, comparable};

use crate::args::{Logging, Share};
use crate::children::StderrMode;
use crate::memory::default_limit;
use crate::names::{self, Name};
use crate::report::Failure;
use crate::signals::Signals;
use crate::{connect, sessions, status};

/// How the names of the servers begin.
pub(crate) const PREFIX: &str = "share-";

/// How often a client connects or starts a server before it gives up.
const ATTEMPTS: u32 = 5;

/// The pause between two attempts, multiplied by the number of the attempt.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a server may take to listen, and how long a client waits for others that start servers.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum length of what a server says about its start.
const MAX_ANSWER: u64 = 64 * 1024;

/// The number of lines of a log that an error shows.
const LOG_LINES: usize = 10;

pub(crate) async fn run(args: Share, logging: &Logging) -> Result<(), Failure> {
    let named = |name: &str| {
        let name = Name::new(name).filter(|it| it.as_str().starts_with(PREFIX));
        name.ok_or_else(|| Failure::Usage("not the name of a shared program".into()))
    };
    if let Some(name) = &args.serve_as {
        let name = named(name)?;
        return server::run(args, name, logging).await;
    }
    if let Some(name) = &args.start_as {
        // When this process has exited, the server is a child of neither the client nor the host.
        let argv = argv("--serve-as", &named(name)?, &args);
        let (stdout, stderr) = (Stdio::inherit(), Stdio::inherit());
        start_detached(&this_program()?, argv, std::env::vars_os(), stdout, stderr)?;
        return Ok(());
    }
    if args.stop {
        let command = (!args.command.is_empty()).then(|| comparable(&args.command));
        return status::stop_shared(command.as_deref()).await;
    }
    let signals = Signals::listen()?;
    let client = Client::new(args)?;
    tokio::select! {
        done = client.run(&signals) => done,
        () = signals.second() => Err(Failure::other("stopped at once by a second signal")),
    }
}

/// A client of a shared program.
struct Client {
    args: Share,
    name: Name,
    directory: PathBuf,
    environment: Vec<(OsString, OsString)>,
    options: Options,
}

impl Client {
    fn new(args: Share) -> Result<Self, Failure> {
        let directory = names::directory()?;
        let here = std::env::current_dir().map_err(|error| {
            Failure::other(format!("the current directory is unknown: {error}"))
        })?;
        let environment = identity::environment();
        let identity = identity::Identity {
            dialect: args.dialect.name,
            command: &args.command,
            directory: &here,
            environment: environment.clone(),
        };
        let name = identity.name(&directory, &args.ignore_env)?;
        let memory = Some(MemoryBudget::new(default_limit()));
        let options = Options { memory, ..Options::default() };
        Ok(Self { args, name, directory, environment, options })
    }

    async fn run(&self, signals: &Signals) -> Result<(), Failure> {
        let near_endpoint = Endpoint::stdio();
        let near = Registry::new().connect(&near_endpoint, &self.options).await?;
        let opened = tokio::select! {
            opened = early::open(self, near) => opened?,
            () = signals.first() => return Err(Failure::other("stopped by a signal")),
        };
        let early::Opened { near, far, last } = opened;
        // Requests that cannot be passed on, or that the server leaves unanswered, get an error response.
        let dialect = Some(self.args.dialect);
        let how = Bridge { memory: self.options.memory.clone(), dialect, ..Bridge::default() };
        let report = tieline_gateway::bridge(near, far, how, signals.first()).await;
        tracing::debug!(to_far = report.to_far, to_near = report.to_near, "{}", report.end);
        match (&report.end, last.error()) {
            (BridgeEnd::Far(_), Some(why)) => Err(self.failure(&why.sentence, why.stderr)),
            (BridgeEnd::Far(reason), None) if !report.near_was_done => {
                Err(self.failure(&format!("the line has ended: {reason}"), self.log_lines()))
            }
            _ => connect::outcome(&report, &near_endpoint, &self.name.endpoint(), StderrMode::Log),
        }
    }

    /// Connects to the server. Starts it if necessary.
    async fn connect(&self) -> Result<BoxChannel, Failure> {
        let mut ended = None;
        for attempt in 1..=ATTEMPTS {
            if let Some(channel) = self.connect_once().await? {
                return Ok(channel);
            }
            // Of several clients, one starts the server, and the others then connect to it.
            let lock = self.lock().await?;
            if let Some(channel) = self.connect_once().await? {
                return Ok(channel);
            }
            ended = self.start().await?;
            if let Some(channel) = self.connect_once().await? {
                return Ok(channel);
            }
            drop(lock);
            // A server whose client was killed may be about to listen, or one that is idle about to end.
            sleep(PAUSE * attempt).await;
        }
        Err(ended.unwrap_or_else(|| self.failure("its server cannot be reached", self.log_lines())))
    }

    /// Connects to the server, or returns `None` if it is not running.
    async fn connect_once(&self) -> Result<Option<BoxChannel>, Failure> {
        match sessions::connect(&Registry::new(), &self.name.endpoint(), &self.options).await {
            Ok(channel) => Ok(Some(channel)),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::Refused => Ok(None),
                _ => Err(error.into()),
            },
        }
    }

    /// Waits until no other client starts a server. Servers of different programs use up to 16 locks, so that
    /// their number is bounded.
    async fn lock(&self) -> Result<File, Failure> {
        let digit = self.name.as_str().get(PREFIX.len()..=PREFIX.len()).unwrap_or_default();
        let path = self.directory.join(format!("{PREFIX}{digit}.lock"));
        let shown = path.display().to_string();
        let locked = in_thread(move || -> std::io::Result<File> {
            let mut open = OpenOptions::new();
            open.write(true).create(true).truncate(false).mode(0o600);
            let file = open_regular(&mut open, &path)?;
            loop {
                match flock(&file, FlockOperation::LockExclusive) {
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                    Ok(()) => return Ok(file),
                }
            }
        });
        match timeout(START_TIMEOUT, locked).await {
            Ok(locked) => locked?.map_err(|error| {
                Failure::other(format!("cannot lock {shown}: {error}. Remove it"))
            }),
            Err(_) => Err(Failure::other(format!(
                "another `tieline share` has held {shown} for {} s. End that process",
                START_TIMEOUT.as_secs()
            ))),
        }
    }

    /// Starts the server, and waits until it listens. Returns a failure if it ended without a reason, for example
    /// because it was killed: another one may be started.
    ///
    /// # Errors
    /// Another server would fail, too.
    async fn start(&self) -> Result<Option<Failure>, Failure> {
        let path = server::log_path(&self.name);
        let cannot = |why: &dyn std::fmt::Display| {
            self.failure(&format!("its server cannot be started: {why}"), Vec::new())
        };
        let log = log::create(&path)
            .map_err(|error| cannot(&format_args!("{}: {error}", path.display())))?;
        let (program, argv) = (this_program()?, argv("--start-as", &self.name, &self.args));
        let environment = self.environment.clone();
        let started = in_thread(move || -> std::io::Result<String> {
            let mut child = start_detached(&program, argv, environment, Stdio::piped(), log)?;
            let stdout = child.stdout.take();
            child.wait()?;
            let mut answer = String::new();
            if let Some(stdout) = stdout {
                BufReader::new(stdout.take(MAX_ANSWER)).read_line(&mut answer)?;
            }
            Ok(answer)
        });
        let answer = match timeout(START_TIMEOUT, started).await {
            Ok(started) => started?.map_err(|error| {
                log::discard(&path);
                cannot(&error)
            })?,
            Err(_) => {
                let seconds = START_TIMEOUT.as_secs();
                return Err(cannot(&format_args!("it does not listen within {seconds} s")));
            }
        };
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        // If the name is in use, the server of a client that was killed has it.
        if answer.get("ready").is_some() || answer.get("in_use").is_some() {
            return Ok(None);
        }
        let text = |member: &str| answer.get(member).and_then(Value::as_str).map(str::to_owned);
        match text("failed") {
            Some(sentence) => {
                Err(Failure::Other { sentence, stderr: Vec::new(), hint: text("hint") })
            }
            None => {
                let lines = self.log_lines();
                log::discard(&path);
                Ok(Some(self.failure("its server ended while it was starting", lines)))
            }
        }
    }

    fn failure(&self, sentence: &str, stderr: Vec<String>) -> Failure {
        let command = self.args.command.first().map(|it| it.to_string_lossy().into_owned());
        let log = server::log_path(&self.name);
        let hint = log.exists().then(|| format!("the log of its server is {}", log.display()));
        Failure::Other {
            sentence: format!("{}: {sentence}", command.unwrap_or_default()),
            stderr,
            hint,
        }
    }

    /// Returns the last lines of the server's log.
    fn log_lines(&self) -> Vec<String> {
        let log = server::log_path(&self.name);
        let log = std::fs::read(&log).or_else(|_| std::fs::read(log::unpublished(&log)));
        let log = log.unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let first = lines.len().saturating_sub(LOG_LINES);
        lines.iter().skip(first).map(|line| (*line).to_owned()).collect()
    }
}

/// Returns the arguments that start a server as `name`.
fn argv(option: &str, name: &Name, args: &Share) -> Vec<OsString> {
    let idle = format!("{}ms", args.idle_timeout.as_millis());
    let words = ["tieline", "share", option, name.as_str(), "--dialect", args.dialect.name];
    let words = words.into_iter().chain(["--idle-timeout", &idle, "--"]).map(OsString::from);
    words.chain(args.command.iter().cloned()).collect()
}

/// Opens a regular file of this user, and nothing else: opening a FIFO could wait forever.
fn open_regular(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits() as i32).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("it is not a regular file")),
    }
}

/// Returns the path of this program, even if its file was removed by an update.
fn this_program() -> std::io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let always = Path::new("/proc/self/exe");
    Ok(if program.exists() || !always.exists() { program } else { always.to_owned() })
}

/// Runs a function that blocks in a thread. If the future is dropped, the thread is left, and ends with the
/// process.
async fn in_thread<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name("tieline-share".into()).spawn(move || done.send(run()))?;
    result.await.map_err(|_| std::io::Error::other("a thread has failed"))
}
