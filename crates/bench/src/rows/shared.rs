//! A program that many MCP clients share: the memory of a session, the latency of calls beside a client
//! that does not read, and the start of a client with `tieline share`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::idle::{self, growth};
use super::mcp::{Client, INITIALIZE, INITIALIZED};
use super::programs::{Listening, tieline};
use crate::compare::{Bench, Error, Result};
use crate::report::{Goal, TableLine, Unit};
use crate::stats::quantiles;

const MEMORY: Goal = Goal::AtMost(64.0 * 1024.0, Unit::Bytes);
const TAIL: Goal = Goal::RatioAtMost(2.0);
const START: Goal = Goal::RatioAtMost(4.0);

/// The number of clients that read.
const CLIENTS: u32 = 99;
/// The number of calls of each client per round.
const CALLS: u32 = 10;
/// The length of the results that the client that does not read asks for.
const LARGE: usize = 64 * 1024;
/// A client whose request cannot be written for this long is stalled.
const STALLED: Duration = Duration::from_millis(200);

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let mut lines = memory(bench)?;
    lines.push(tail(bench)?);
    lines.push(start(bench)?);
    Ok(lines)
}

/// Returns the command of a server whose clients share the compiled program.
fn server() -> Result<Command> {
    let mut command = tieline()?;
    command.args(["serve", "--quiet", "--no-status", "--process", "shared", "--dialect", "mcp"]);
    command.args(["--max-connections", "5000", "--allow-unauthenticated-web"]);
    Ok(command)
}

fn program(command: &mut Command) -> Result<()> {
    command.arg("--").arg(std::env::current_exe()?).arg("mcp-program");
    Ok(())
}

fn memory(bench: &Bench) -> Result<Vec<TableLine>> {
    let Some(sessions) = idle::connections(bench, 1000) else {
        let why = "the system does not report it";
        return Ok(vec![TableLine::skipped("memory of MCP sessions", why)]);
    };
    let mut figures = Vec::new();
    for _ in 0..bench.rounds().min(9) {
        let process = Listening::start(|port| {
            let mut command = server()?;
            command.arg("--listen").arg(format!("http://127.0.0.1:{port}"));
            program(&mut command)?;
            Ok(command)
        })?;
        let session = || bench.runtime.block_on(session(process.port));
        figures.push(growth(process.pid(), sessions, session)?);
    }
    let [median] = quantiles(figures, [0.5]);
    let work = format!("MCP sessions, memory, each of {sessions} that share a program");
    Ok(vec![TableLine::alone(work, Unit::Bytes, median, Some(MEMORY))])
}

/// Returns a session that has made a call and has its general stream open.
async fn session(port: u16) -> Result<Client> {
    let mut client = Client::initialize(port).await?;
    client.call(0).await?;
    client.listen().await?;
    Ok(client)
}

fn tail(bench: &Bench) -> Result<TableLine> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("shared.sock");
    let _process = Listening::start(|port| {
        let mut command = server()?;
        let mut unix = std::ffi::OsString::from("unix:");
        unix.push(&socket);
        command.arg("--listen").arg(unix);
        // Only to see that it listens.
        command.arg("--listen").arg(format!("http://127.0.0.1:{port}"));
        program(&mut command)?;
        Ok(command)
    })?;
    let mut clients = bench.runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(LineClient::initialize(&socket).await?);
        }
        Ok::<_, Error>(clients)
    })?;
    let mut figures = [Vec::new(), Vec::new()];
    // The first round of each is a warm-up.
    for round in 0..=bench.rounds() {
        for (with_stalled, figures) in [true, false].into_iter().zip(&mut figures) {
            let figure = bench.runtime.block_on(async {
                let stalled = match with_stalled {
                    true => Some(stalled(&socket).await?),
                    false => None,
                };
                let latencies = latencies(&mut clients).await?;
                drop(stalled);
                let [p99] = quantiles(latencies, [0.99]);
                Ok::<_, Error>(p99)
            })?;
            if round > 0 {
                figures.push(figure);
            }
        }
    }
    let [with, without] = figures;
    let work = format!(
        "p99 of MCP calls, {CLIENTS} clients that share a program and one that does not read"
    );
    Ok(TableLine::compared(work, "without that client", Unit::Time, (&with, &without), TAIL))
}

/// Makes the calls of all clients at once, and returns the duration of each in seconds.
async fn latencies(clients: &mut Vec<LineClient>) -> Result<Vec<f64>> {
    let mut tasks = JoinSet::new();
    for mut client in clients.drain(..) {
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            for _ in 0..CALLS {
                let begun = Instant::now();
                client.call("a word").await?;
                latencies.push(begun.elapsed().as_secs_f64());
            }
            Ok::<_, Error>((client, latencies))
        });
    }
    let mut all = Vec::new();
    for done in tasks.join_all().await {
        let (client, mut latencies) = done?;
        clients.push(client);
        all.append(&mut latencies);
    }
    Ok(all)
}

/// Returns a client that has asked for more than it can be sent, and does not read.
async fn stalled(socket: &Path) -> Result<LineClient> {
    let mut client = LineClient::initialize(socket).await?;
    let message = "x".repeat(LARGE);
    while let Ok(written) = timeout(STALLED, client.ask(&message)).await {
        written?;
    }
    Ok(client)
}

/// An MCP client on a Unix socket.
struct LineClient {
    stream: tokio::io::BufReader<UnixStream>,
    next: u32,
    line: String,
}

impl LineClient {
    async fn initialize(socket: &Path) -> Result<Self> {
        let stream = tokio::io::BufReader::new(UnixStream::connect(socket).await?);
        let mut client = Self { stream, next: 0, line: String::new() };
        client.write(INITIALIZE).await?;
        client.hear(r#""id":0"#).await?;
        client.write(INITIALIZED).await?;
        Ok(client)
    }

    async fn call(&mut self, message: &str) -> Result<()> {
        let id = self.ask(message).await?;
        self.hear(&id).await
    }

    /// Sends a call and returns how its id looks in the response.
    async fn ask(&mut self, message: &str) -> Result<String> {
        self.next += 1;
        let id = format!(r#""id":{}"#, self.next);
        let call = format!(
            r#"{{"jsonrpc":"2.0",{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"message":"{message}"}}}}}}"#
        );
        self.write(&call).await?;
        Ok(id)
    }

    async fn write(&mut self, message: &str) -> Result<()> {
        self.stream.write_all(format!("{message}\n").as_bytes()).await?;
        Ok(())
    }

    async fn hear(&mut self, id: &str) -> Result<()> {
        self.line.clear();
        self.stream.read_line(&mut self.line).await?;
        match self.line.contains(id) {
            true => Ok(()),
            false => Err(format!("unexpected response: {}", self.line).into()),
        }
    }
}

/// Compares the start of a client, while the program runs, with that of a program that does nothing.
fn start(bench: &Bench) -> Result<TableLine> {
    let directory = tempfile::tempdir()?;
    let at = directory.path();
    let share = || -> Result<Command> {
        let mut command = tieline()?;
        command.env("XDG_RUNTIME_DIR", at).arg("share");
        Ok(command)
    };
    let first_answer = || -> Result<f64> {
        let mut command = share()?;
        program(&mut command)?;
        let begun = Instant::now();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut input = input.ok_or("the program has no stdin")?;
        writeln!(input, "{INITIALIZE}")?;
        let mut answer = String::new();
        BufReader::new(output.ok_or("the program has no stdout")?).read_line(&mut answer)?;
        let seconds = begun.elapsed().as_secs_f64();
        drop(input);
        match child.wait()?.success() && answer.contains("answers-at-once") {
            true => Ok(seconds),
            false => Err(format!("unexpected response: {answer}").into()),
        }
    };
    let version = || -> Result<f64> {
        let mut command = tieline()?;
        let begun = Instant::now();
        command.arg("--version").stdout(Stdio::null()).status()?;
        Ok(begun.elapsed().as_secs_f64())
    };
    let figures = bench.interleave([Box::new(first_answer), Box::new(version)]);
    share()?.arg("--stop").stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let [share, version] = figures?;
    let work = "`tieline share`, from its start to the first answer of the running program";
    Ok(TableLine::compared(work, "`tieline --version`", Unit::Time, (&share, &version), START))
}
