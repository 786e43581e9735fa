//! `tieline call`: calls one JSON-RPC method.

use std::error::Error;
use std::time::Duration;

use tieline_proto::ByteSize;
use tieline_proto::json::{self, Limits};
use tieline_proto::jsonrpc::InvalidProblem;
use tieline_rpc::{Answer, CallError, NotSent, Peer, PeerOptions, Router, TraceParent};
use tieline_transport::StopTimeouts;
use tokio::time::{Instant, sleep, timeout};

use crate::args::{Call, Logging};
use crate::children::StderrMode;
use crate::lookup;
use crate::pretty::pretty;
use crate::report::{Failure, last_lines};
use crate::signals::Signals;
use crate::stdin::read_stdin;
use crate::stdout::Printer;

/// How long an abandoned call may take to send its cancellation.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(200);

pub(crate) async fn run(args: Call, logging: &Logging) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    args.reach.end_with_parent(&signals)?;
    let stop = async {
        signals.first().await;
        // A call in flight stops by itself and sends a cancellation first.
        sleep(CANCEL_TIMEOUT * 2).await;
    };
    tokio::select! {
        called = call(&args, logging, &signals) => called,
        () = stop => Err(stopped()),
    }
}

/// Completes when the reader of stdout has closed it, unless no response is expected. The call then
/// sends a cancellation, as after a signal.
async fn is_unread(args: &Call) {
    match args.notify {
        true => std::future::pending().await,
        false => tieline_transport::stdout_closed().await,
    }
}

fn unread() -> Failure {
    Failure::other("stdout was closed before the response was complete")
}

fn stopped() -> Failure {
    Failure::other("stopped by a signal")
}

async fn call(args: &Call, logging: &Logging, signals: &Signals) -> Result<(), Failure> {
    let begun = Instant::now();
    args.reach.for_programs_at(&[&args.endpoint])?;
    args.web.check_for(&[&args.endpoint])?;
    let mut options = args.reach.options(logging);
    options.stop = in_all(options.stop.terminate);
    let params = params(args.params.as_deref(), options.channel.max_message).await?;
    let registry = args.web.registry()?;
    let connecting = lookup::connect(&registry, &args.endpoint, &options);
    let within = args.timeout.unwrap_or(Duration::MAX);
    let connected = tokio::select! {
        connected = timeout(within, connecting) => connected,
        () = is_unread(args) => return Err(unread()),
    };
    let Ok(connected) = connected else {
        return Err(Failure::other(format!(
            "cannot connect to {}: not connected within --timeout",
            args.endpoint
        )));
    };
    let channel = connected?;
    let (printer, printed) = Printer::start()?;
    let follower = follower(args.follow, &printer);
    let mut peer_options = PeerOptions::new(args.dialect);
    if let Some(timeout) = args.timeout {
        // The timeout includes closing, which waits until the other side has read a notification and
        // ended.
        peer_options.grace = peer_options.grace.min(timeout.saturating_sub(begun.elapsed()));
    }
    let (peer, driver) = Peer::new(channel, follower, peer_options);
    let driver = tokio::spawn(driver);
    if args.notify {
        let sent = peer.notify_raw(&args.method, params.as_deref()).await;
        sent.map_err(|why| {
            Failure::other(format!("{}: {}: {why}", args.endpoint.label(), args.method))
        })?;
    } else {
        let mut call = peer.method(&args.method);
        if let Some(params) = params {
            call = call.raw_params(params);
        }
        if let Some(timeout) = args.timeout {
            call = call.timeout(timeout.saturating_sub(begun.elapsed()));
        }
        if let Some(trace) = trace() {
            call = call.trace(trace);
        }
        let called = tokio::select! {
            called = call.call_raw() => called.map_err(|error| failed(args, &error, args.reach.stderr(logging))),
            () = signals.first() => Err(stopped()),
            () = is_unread(args) => Err(unread()),
        };
        let result = match called {
            Ok(result) => result,
            Err(why) => {
                // This sends a cancellation if the dialect has one.
                let _ = timeout(CANCEL_TIMEOUT, peer.close()).await;
                return Err(why);
            }
        };
        let result = match printer.is_terminal {
            true => pretty(&result).into_bytes(),
            false => result.to_vec(),
        };
        printer.print(result).await;
    }
    peer.close().await;
    // The driver owns the follower, which holds the last printer besides this one.
    let _ = driver.await;
    drop((peer, printer));
    printed.all().await?;
    Ok(())
}

/// Returns the failure for a call, with its endpoint, method and cause.
fn failed(args: &Call, error: &CallError, stderr: StderrMode) -> Failure {
    let sentence = format!("{}: {}: {}", args.endpoint.label(), args.method, explain(error));
    let reason = match error {
        CallError::Unknown(reason) | CallError::NotSent(NotSent::Closed(reason)) => Some(reason),
        _ => None,
    };
    let hint = reason.and_then(|reason| reason.hint()).map(str::to_owned);
    let stderr = last_lines(reason.and_then(|reason| reason.child_exit()), stderr);
    Failure::Other { sentence, stderr, hint }
}

/// Divides `limit` among the stages of stopping a program whose response has arrived.
pub(crate) fn in_all(limit: Duration) -> StopTimeouts {
    let usual = StopTimeouts::default();
    let end_of_input = usual.end_of_input.min(limit / 2);
    StopTimeouts {
        end_of_input,
        terminate: limit.saturating_sub(end_of_input),
        drain: usual.drain.min(limit),
    }
}

/// Returns the trace in TRACEPARENT, if it is set and valid.
fn trace() -> Option<TraceParent> {
    let text = std::env::var("TRACEPARENT").ok().filter(|text| !text.is_empty())?;
    let trace = text.parse();
    trace.map_err(|problem| tracing::warn!("ignoring TRACEPARENT: {problem}")).ok()
}

/// Returns a router that prints notifications if `follow` is set. It has no methods of its own.
fn follower(follow: bool, printer: &Printer) -> Router {
    if !follow {
        return Router::new();
    }
    let printer = printer.clone();
    Router::new().other_notifications(move |notification, _| {
        let (printer, line) = (printer.clone(), notification.message().to_vec());
        Answer::later(async move { printer.print(line).await })
    })
}

async fn params(text: Option<&str>, limit: ByteSize) -> Result<Option<Vec<u8>>, Failure> {
    let not = |why: String| {
        Failure::Usage(format!("PARAMS {why}. Write, for example, '[1,2]' or '{{\"a\":1}}'"))
    };
    let text = match text {
        None => return Ok(None),
        Some("-") => read_stdin(limit).await?,
        Some(text) => text.as_bytes().to_vec(),
    };
    if text.len() > limit.bytes() {
        return Err(Failure::other(format!("PARAMS are larger than --max-message ({limit})")));
    }
    // The `lines` framing requires one line. The message around PARAMS adds one level of nesting.
    let usual = Limits::default();
    let within = Limits { depth: usual.depth.saturating_sub(1), ..usual };
    let text = json::to_one_line(&text, within)
        .map_err(|error| not(format!("are not valid JSON: {error}")))?;
    match text.trim_ascii().first() {
        Some(b'[' | b'{') => Ok(Some(text.trim_ascii().to_vec())),
        _ => Err(not("are not an array or an object".into())),
    }
}

/// Formats an error with its cause or its data.
pub(crate) fn explain(error: &CallError) -> String {
    match error {
        CallError::Remote(remote) => match &remote.data {
            Some(data) => format!("{remote}; {}", data.get()),
            None => remote.to_string(),
        },
        CallError::InvalidResponse { problem: InvalidProblem::Missing("jsonrpc"), .. } => {
            format!("{error}. For programs that leave it out, use --dialect xi")
        }
        other => match other.source() {
            Some(cause) => format!("{other}: {cause}"),
            None => format!("{other:#}"),
        },
    }
}
