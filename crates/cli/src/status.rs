//! `tieline status`: asks this user's servers what they are doing, and prints the responses.

mod offer;
#[cfg_attr(windows, path = "status/place_pipe.rs")]
mod place;
mod said;
mod table;

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::{Value, json};
use tieline_rpc::{CallError, Dialect, Peer, PeerOptions};
use tieline_transport::{Endpoint, ErrorKind, Options, Registry};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

pub(crate) use offer::{About, Offer};

use crate::args::Status;
use crate::call::Printer;
use crate::report::Failure;
use crate::signals::Signals;
use crate::terminal;

/// The JSON-RPC method that servers answer.
const METHOD: &str = "status";

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The interval of `--watch`.
const EVERY: Duration = Duration::from_secs(1);

/// Moves the cursor to the top and clears the terminal.
const CLEAR: &str = "\x1b[H\x1b[J";

pub(crate) async fn run(args: Status) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let (printer, printed) = Printer::start()?;
    let looked = tokio::select! {
        looked = look(&args, &printer) => looked,
        () = printer.closed() => Ok(()),
        () = signals.first() => match args.watch {
            true => Ok(()),
            false => Err(Failure::Said("stopped by a signal".into())),
        },
    };
    drop(printer);
    printed.all().await?;
    looked
}

async fn look(args: &Status, printer: &Printer) -> Result<(), Failure> {
    let redraws = args.watch && !args.json && std::io::stdout().is_terminal();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_first = true;
    loop {
        ticks.tick().await;
        let answers = ask_all(args.endpoint.as_ref()).await?;
        let text = match args.json {
            true => json!({ "serves": answers }).to_string(),
            false if answers.is_empty() => format!(
                "no server of this user found in {}. Start one with: tieline serve -- COMMAND\n",
                place::name()
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

/// Asks all servers, and returns the responses sorted by PID; with `wanted`, only of the server that
/// listens there.
async fn ask_all(wanted: Option<&Endpoint>) -> Result<Vec<Value>, Failure> {
    let mut asked = JoinSet::new();
    for (pid, endpoint) in place::all()? {
        asked.spawn(async move { (pid, ask(&endpoint).await) });
    }
    let mut asked = asked.join_all().await;
    asked.sort_by_key(|(pid, _)| *pid);
    let mut answers = Vec::new();
    for (pid, answer) in asked {
        match answer {
            Answer::Said(said) if wanted.is_none_or(|it| said::listens_at(&said, it)) => {
                answers.push(said);
            }
            Answer::Said(_) | Answer::Gone => {}
            Answer::Silent(why) => {
                let text = format!("tieline: the server with pid {pid} does not answer: {why}");
                crate::stderr::say((terminal::line(&text) + "\n").as_bytes());
            }
        }
    }
    match wanted {
        Some(endpoint) if answers.is_empty() => Err(Failure::Said(format!(
            "no server of this user found in {} listens on {endpoint}. `tieline status` lists the \
             servers that can be asked; one started with --no-status cannot",
            place::name()
        ))),
        _ => Ok(answers),
    }
}

enum Answer {
    Said(Value),
    /// The server has exited, or was killed and left its socket.
    Gone,
    Silent(String),
}

async fn ask(endpoint: &Endpoint) -> Answer {
    match ask_once(endpoint).await {
        // Either it has just exited, or it closed this connection to accept others: try once more.
        None => {
            ask_once(endpoint).await.unwrap_or(Answer::Silent("it closed the connection".into()))
        }
        Some(answer) => answer,
    }
}

/// Returns `None` if the connection was lost.
async fn ask_once(endpoint: &Endpoint) -> Option<Answer> {
    let options = Options { connect_timeout: PATIENCE, ..Options::default() };
    let channel = match Registry::new().connect(endpoint, &options).await {
        Ok(channel) => channel,
        Err(error) => {
            return Some(match error.kind() {
                ErrorKind::Refused | ErrorKind::NotFound => Answer::Gone,
                kind => Answer::Silent(kind.to_string()),
            });
        }
    };
    let (peer, driver) = Peer::new(channel, (), PeerOptions::new(Dialect::STRICT));
    let call = peer.method(METHOD).timeout(PATIENCE).call::<Value>();
    tokio::select! {
        // A response that arrived before the end of the connection counts.
        biased;
        answer = call => match answer {
            Ok(said) => Some(Answer::Said(said)),
            Err(CallError::Unknown(_) | CallError::NotSent(_)) => None,
            Err(error) => Some(Answer::Silent(error.to_string())),
        },
        _ = driver => None,
    }
}
