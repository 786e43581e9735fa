//! `tieline call`: one method of a JSON-RPC program.

use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

use tieline_proto::json::{self, Limits};
use tieline_rpc::{Answer, CallError, Peer, PeerOptions, Router};
use tieline_transport::Registry;

use crate::args::Call;
use crate::pretty::pretty;
use crate::report::Failure;
use crate::signals::Signals;

pub(crate) async fn run(args: Call) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let params = params(args.params.as_deref())?;
    tokio::select! {
        called = call(&args, params) => called,
        () = signals.first() => Err(Failure::Said("ended by a signal".into())),
    }
}

async fn call(args: &Call, params: Option<Vec<u8>>) -> Result<(), Failure> {
    let channel = Registry::new().connect(&args.endpoint, &args.reach.options()).await?;
    let options = PeerOptions { grace: GRACE, ..PeerOptions::new(args.dialect) };
    let (peer, driver) = Peer::new(channel, follower(args.follow), options);
    let driver = tokio::spawn(driver);
    let said = |why: String| Failure::Said(format!("{}: {why}", args.method));
    if args.notify {
        let sent = peer.notify_raw(&args.method, params.as_deref()).await;
        sent.map_err(|why| said(why.to_string()))?;
    } else {
        let mut call = peer.method(&args.method);
        if let Some(params) = params {
            call = call.raw_params(params);
        }
        if let Some(timeout) = args.timeout {
            call = call.timeout(timeout);
        }
        let result = call.call_raw().await.map_err(|error| said(explain(&error)))?;
        print(&result)?;
    }
    peer.close().await;
    // What it was connected to has ended with it.
    let _ = driver.await;
    Ok(())
}

/// How long the other side may take to let go of the line once all was said.
const GRACE: Duration = Duration::from_secs(10);

/// Prints what is told meanwhile, if it is asked for. Nothing that is asked of us is answered.
fn follower(follow: bool) -> Router {
    if !follow {
        return Router::new();
    }
    Router::new().other_notifications(|notification, _| {
        let _ = print_line(notification.message());
        Answer::Now(())
    })
}

fn params(text: Option<&str>) -> Result<Option<Vec<u8>>, Failure> {
    let text = match text {
        None => return Ok(None),
        Some("-") => {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text)?;
            text
        }
        Some(text) => text.as_bytes().to_vec(),
    };
    let not = |why: String| {
        Failure::Usage(format!("PARAMS {why}; write it like '[1,2]' or '{{\"a\":1}}'"))
    };
    // On one line, as most framings want it.
    let text = json::to_one_line(&text, Limits::default())
        .map_err(|e| not(format!("is not JSON: {e}")))?;
    match text.trim_ascii().first() {
        Some(b'[' | b'{') => Ok(Some(text.trim_ascii().to_vec())),
        _ => Err(not("is not an array or an object".into())),
    }
}

fn print(result: &[u8]) -> std::io::Result<()> {
    if std::io::stdout().is_terminal() {
        print_line(pretty(result).as_bytes())
    } else {
        print_line(result)
    }
}

fn print_line(line: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// The error, with its data where it has some.
fn explain(error: &CallError) -> String {
    match error {
        CallError::Remote(remote) => match &remote.data {
            Some(data) => format!("{remote}; {}", data.get()),
            None => remote.to_string(),
        },
        other => other.to_string(),
    }
}
