//! `tieline status`: asks this user's servers what they are doing, and prints the responses.

mod login;
mod response;
mod running;
mod server;
#[cfg(unix)]
mod share;
#[cfg_attr(windows, path = "status/pipe.rs")]
mod socket;
mod table;

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::{Value, json};
use tieline_rpc::{CallError, Dialect, Peer, PeerOptions};
use tieline_transport::{Endpoint, ErrorKind, Options, Registry};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

pub(crate) use running::{in_use, not_running};
pub(crate) use server::{LoginUrls, StatusServer, StatusSource};
#[cfg(unix)]
pub(crate) use share::stop_shared;

use crate::args::Status;
use crate::report::Failure;
use crate::signals::Signals;
use crate::stdout::Printer;
use crate::terminal;

/// The JSON-RPC method that servers answer.
const METHOD: &str = "status";

/// How long a server may take to answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The interval of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The control sequence that moves the cursor to the top and clears the terminal.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(crate) async fn run(args: Status) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let (printer, printed) = Printer::start()?;
    let looked = tokio::select! {
        looked = look(&args, &printer) => looked,
        () = printer.closed() => Ok(()),
        () = signals.first() => match args.watch {
            true => Ok(()),
            false => Err(Failure::other("stopped by a signal")),
        },
    };
    drop(printer);
    printed.all().await?;
    looked
}

async fn look(args: &Status, printer: &Printer) -> Result<(), Failure> {
    if args.url {
        let urls = login::urls(args.endpoint.as_ref()).await?;
        printer.write(urls.into_bytes()).await;
        return Ok(());
    }
    let redraws = args.watch && !args.json && std::io::stdout().is_terminal();
    let mut ticks = interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_first = true;
    loop {
        ticks.tick().await;
        let answers = ask_all(args.endpoint.as_ref()).await?;
        let answers: Vec<_> = answers.into_iter().map(|(_, status)| status).collect();
        let text = match args.json {
            true => json!({ "serves": answers }).to_string(),
            false if answers.is_empty() => format!(
                "no server of this user found in {}. Start one with: tieline serve -- COMMAND\n",
                socket::directory_name()
            ),
            false => table::of(&answers),
        };
        if redraws {
            printer.write_as_it_is(CLEAR.into()).await;
            printer.write(text.into_bytes()).await;
        } else {
            let gap = if is_first || args.json { "" } else { "\n" };
            let end = if args.json { "\n" } else { "" };
            printer.write(format!("{gap}{text}{end}").into_bytes()).await;
        }
        is_first = false;
        if !args.watch {
            return Ok(());
        }
    }
}

/// Asks all servers, and returns their status sockets and responses, sorted by PID. With `wanted`,
/// returns only those of the server that listens there.
async fn ask_all(wanted: Option<&Endpoint>) -> Result<Vec<(Endpoint, Value)>, Failure> {
    let mut statuses = Vec::new();
    for (pid, socket, answer) in answers().await? {
        match answer {
            Answer::Status(status) if wanted.is_none_or(|it| response::listens_at(&status, it)) => {
                statuses.push((socket, status));
            }
            Answer::Status(_) | Answer::Gone => {}
            Answer::Failed(why) => {
                let text = format!("tieline: the server with pid {pid} does not answer: {why}");
                crate::stderr::say((terminal::line(&text) + "\n").as_bytes());
            }
        }
    }
    match wanted {
        Some(endpoint) if statuses.is_empty() => Err(running::unanswered(endpoint).await),
        _ => Ok(statuses),
    }
}

/// Asks all servers, and returns their PIDs, status sockets and answers, sorted by PID.
async fn answers() -> Result<Vec<(u32, Endpoint, Answer)>, String> {
    let mut asking = JoinSet::new();
    for (pid, socket) in socket::all()? {
        asking.spawn(async move {
            let answer = ask(&socket, METHOD).await;
            (pid, socket, answer)
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(pid, ..)| *pid);
    Ok(answers)
}

enum Answer {
    Status(Value),
    /// The server has exited, or was killed and left its socket behind.
    Gone,
    Failed(String),
}

async fn ask(endpoint: &Endpoint, method: &str) -> Answer {
    ask_with(endpoint, method, Value::Null).await
}

async fn ask_with(endpoint: &Endpoint, method: &str, params: Value) -> Answer {
    match ask_once(endpoint, method, &params).await {
        // The server has just exited, or has closed this connection to accept others, so try once more.
        None => ask_once(endpoint, method, &params)
            .await
            .unwrap_or(Answer::Failed("it closed the connection".into())),
        Some(answer) => answer,
    }
}

/// Asks a server once. Returns `None` if the connection was lost.
async fn ask_once(endpoint: &Endpoint, method: &str, params: &Value) -> Option<Answer> {
    let options = Options { connect_timeout: RESPONSE_TIMEOUT, ..Options::default() };
    let channel = match Registry::new().connect(endpoint, &options).await {
        Ok(channel) => channel,
        Err(error) => {
            return Some(match error.kind() {
                ErrorKind::Refused | ErrorKind::NotFound => Answer::Gone,
                kind => Answer::Failed(kind.to_string()),
            });
        }
    };
    let (peer, driver) = Peer::new(channel, (), PeerOptions::new(Dialect::STRICT));
    let call = peer.method(method).params(params).timeout(RESPONSE_TIMEOUT).call::<Value>();
    tokio::select! {
        // Take a response that arrived before the end of the connection.
        biased;
        answer = call => match answer {
            Ok(status) => Some(Answer::Status(status)),
            Err(CallError::Unknown(_) | CallError::NotSent(_)) => None,
            Err(error) => Some(Answer::Failed(error.to_string())),
        },
        _ = driver => None,
    }
}
