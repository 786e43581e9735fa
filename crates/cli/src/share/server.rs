//! The server in the background.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use tokio::sync::Notify;

use super::log;
use crate::args::{Args, Command, Share};
use crate::names::{self, Name};
use crate::report::Failure;
use crate::serve;
use crate::status::StatusSource;

/// What a server in the background does differently.
pub(crate) struct Background {
    name: Name,
    idle_timeout: Duration,
    stop: Stop,
}

impl Background {
    /// Returns how long the server goes on without a client.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    /// Tells the client that started the server that it is listening. Returns the source of a status that also
    /// lets clients stop the server.
    pub(crate) fn begin(&self, source: StatusSource) -> StatusSource {
        log::publish(&log_path(&self.name));
        answer(&json!({ "ready": true }));
        source.stopped_by(self.stop.clone())
    }

    /// Completes when the server is told to stop.
    pub(crate) async fn stopped(&self) {
        self.stop.stopped.notified().await;
    }
}

/// Stops a server in the background, if the command is right.
#[derive(Clone)]
pub(crate) struct Stop {
    command: Vec<String>,
    stopped: Arc<Notify>,
}

impl Stop {
    /// Stops the server if it runs this command, or without a condition. Returns whether it stops.
    pub(crate) fn stop(&self, command: Option<&[String]>) -> bool {
        let is_it = command.is_none_or(|command| command == self.command);
        if is_it {
            self.stopped.notify_one();
        }
        is_it
    }
}

/// Returns a command in the form in which servers compare it.
pub(crate) fn comparable(command: &[OsString]) -> Vec<String> {
    command.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Returns the path of the log of this server.
pub(super) fn log_path(name: &Name) -> PathBuf {
    names::path().join(format!("{name}.log"))
}

/// Serves in the background. stdout is a pipe to the client that has started it, and stderr is the log.
pub(super) async fn run(
    args: Share,
    name: Name,
    logging: &crate::args::Logging,
) -> Result<(), Failure> {
    if let Ok(log) = log::Bounded::of_stderr() {
        crate::stderr::write_to(Box::new(log));
    }
    let served = serve(args, name.clone(), logging).await;
    // Another server has the name: that of a client that was killed before it listened.
    let in_use = format!("the name `{name}` is in use");
    log::remove(&log_path(&name));
    match &served {
        Ok(()) => {}
        Err(failure) if failure.sentence().contains(&in_use) => answer(&json!({ "in_use": true })),
        Err(failure) => answer(&json!({ "failed": failure.sentence(), "hint": failure.hint() })),
    }
    served
}

async fn serve(args: Share, name: Name, logging: &crate::args::Logging) -> Result<(), Failure> {
    let idle = format!("{}ms", args.idle_timeout.as_millis());
    let options = ["--process", "shared", "--stderr", "log", "--dialect", args.dialect.name];
    let line = ["tieline", "serve"].into_iter().chain(options).map(OsString::from);
    let line = line.chain(["--idle-timeout".into(), idle.into(), "--".into()]);
    let parsed = Args::try_parse_from(line.chain(args.command.iter().cloned()));
    let mut serve = match parsed.map_err(|error| Failure::other(error.to_string()))?.command {
        Command::Serve(serve) => *serve,
        _ => return Err(Failure::other("the command line of the server is invalid")),
    };
    serve.name = Some(name.clone());
    let stop = Stop { command: comparable(&args.command), stopped: Arc::default() };
    serve::run(serve, logging, Some(Background { name, idle_timeout: args.idle_timeout, stop }))
        .await
}

/// Sends one line to the client that has started the server, and closes the pipe. The client may have been
/// killed: the server then runs for the next one.
fn answer(line: &serde_json::Value) {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(format!("{line}\n").as_bytes());
    let _ = stdout.flush();
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}
