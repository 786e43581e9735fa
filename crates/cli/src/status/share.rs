//! `tieline share --stop`: ends the servers of shared programs.

use std::time::Duration;

use serde_json::{Value, json};
use tieline_rpc::{Answer as Response, ErrorObject, Outcome, Request};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::response::ServerStatus;
use super::{Answer, ask_all, ask_with};
use crate::report::Failure;
use crate::share::{PREFIX, Stop};
use crate::signals::{Signals, parent};

/// The JSON-RPC method that stops a server. Its parameter is the command, if only that one is to be stopped.
pub(super) const METHOD: &str = "stop_shared";

/// How long a server and its program may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers the method.
pub(super) fn answer(request: &Request, stop: &Stop) -> Response<Outcome> {
    let params: Result<Vec<Option<Vec<String>>>, _> =
        serde_json::from_slice(request.params().unwrap_or(b"[null]"));
    Response::Now(match params {
        Ok(params) => {
            let stops = stop.stop(params.into_iter().next().flatten().as_deref());
            Ok(stops.to_string().into())
        }
        Err(error) => Err(ErrorObject::invalid_params(error)),
    })
}

/// Stops the servers that `tieline share` has started for this command, or all of them, and waits until they have
/// ended.
pub(crate) async fn stop_shared(command: Option<&[String]>) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let mut stopping = Vec::new();
    for (socket, status) in ask_all(None).await? {
        let ServerStatus { pid, name, .. } = ServerStatus::parse(&status);
        let Some(name) = name.filter(|name| name.starts_with(PREFIX)) else { continue };
        // The process is watched first: its number cannot belong to another process while it answers.
        let (ended, end) = oneshot::channel::<()>();
        let watched: parent::Watched = pid.to_string().parse()?;
        parent::watch(watched, move |_| drop(ended))?;
        match ask_with(&socket, METHOD, json!([command])).await {
            Answer::Status(Value::Bool(false)) => {}
            // A server may end before its answer is sent.
            _ => stopping.push((name, pid, end)),
        }
    }
    if stopping.is_empty() {
        crate::stderr::say(b"tieline: no shared program is running for this command\n");
    }
    for (name, pid, end) in stopping {
        let ended = tokio::select! {
            ended = timeout(STOP_TIMEOUT, end) => ended,
            () = signals.first() => return Err(Failure::other("stopped by a signal")),
        };
        if ended.is_err() {
            let seconds = STOP_TIMEOUT.as_secs();
            return Err(Failure::other(format!(
                "the server {name} (pid {pid}) has not ended within {seconds} s. End that process"
            )));
        }
    }
    Ok(())
}
