//! Failures for names that are not found or in use, with the running servers.

use std::path::Path;

use tieline_transport::Endpoint;

use super::response::ServerStatus;
use super::{Answer, answers, response, socket};
use crate::args::is_scheme;
use crate::names::{self, Name};
use crate::report::Failure;

/// The maximum number of names in an error. Further names are only counted.
const MAX_SHOWN: usize = 3;

/// Returns the failure for a name without a server. `why` is the reason why connecting failed.
pub(crate) async fn not_running(name: &Name, why: &str) -> Failure {
    let sentence =
        format!("no server with the name `{name}` is running: {}: {why}", name.endpoint());
    let hint = [other_meaning(name), start(name), running().await];
    Failure::Other {
        sentence,
        stderr: Vec::new(),
        hint: Some(hint.into_iter().flatten().collect::<Vec<_>>().join("; ")),
    }
}

/// Returns the failure for a name that another process uses.
pub(crate) async fn in_use(name: &Name) -> Failure {
    let endpoint = name.endpoint();
    let server =
        servers().await.into_iter().find(|(status, _)| response::listens_at(status, &endpoint));
    let process = match (server, names::holder(name)) {
        (Some((_, ServerStatus { pid, command, .. })), _) => {
            format!("a server of {command} (pid {pid})")
        }
        (None, Some((pid, program))) => format!("{program} (pid {pid})"),
        (None, None) => "another process".into(),
    };
    Failure::Other {
        sentence: format!("cannot listen on {endpoint}: the name `{name}` is in use by {process}"),
        stderr: Vec::new(),
        hint: Some("stop that process, or use another name".into()),
    }
}

/// Returns the failure for an endpoint at which no server could be asked for its status.
pub(super) async fn unanswered(endpoint: &Endpoint) -> Failure {
    let Some(name) = Name::at(endpoint) else {
        return Failure::other(format!(
            "no server of this user found in {} listens on {endpoint}. `tieline status` lists the servers \
             that can be asked; one started with --no-status cannot",
            socket::directory_name()
        ));
    };
    match names::holder(&name) {
        Some((pid, program)) => Failure::other(format!(
            "the server with the name `{name}` cannot be asked: {program} (pid {pid}) uses the name. A \
             server that was started with --no-status does not answer"
        )),
        None => not_running(&name, "no server that can be asked listens there").await,
    }
}

fn start(name: &Name) -> Option<String> {
    let can_start = Name::to_serve(name.as_str()).is_ok();
    can_start.then(|| format!("start one with `tieline serve --name {name} -- COMMAND`"))
}

/// Returns a hint that says what to write if the word was not meant as a name.
fn other_meaning(name: &Name) -> Option<String> {
    let word = name.as_str();
    if is_scheme(word) {
        return Some(format!("if you mean an endpoint, write `{word}:` and what follows it"));
    }
    if let Ok(port) = word.parse::<u16>() {
        return Some(format!(
            "if you mean a port, write tcp:127.0.0.1:{port} or ws://127.0.0.1:{port}/ws"
        ));
    }
    let is_file = Path::new(word).symlink_metadata().is_ok_and(|it| !it.is_dir());
    is_file.then(|| format!("if you mean the file in this directory, write unix:{word}"))
}

/// Lists the names of the running servers.
async fn running() -> Option<String> {
    let mut names: Vec<_> =
        servers().await.into_iter().filter_map(|(_, server)| Name::new(&server.name?)).collect();
    names.sort();
    let shown: Vec<_> = names.iter().take(MAX_SHOWN).map(|name| format!("`{name}`")).collect();
    let more = match names.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!shown.is_empty()).then(|| format!("running servers: {}{more}", shown.join(", ")))
}

/// Returns the status of each server that answers, both as received and parsed.
async fn servers() -> Vec<(serde_json::Value, ServerStatus)> {
    let answers = answers().await.unwrap_or_default().into_iter();
    let statuses = answers.filter_map(|(_, _, answer)| match answer {
        Answer::Status(status) => Some(status),
        Answer::Gone | Answer::Failed(_) => None,
    });
    statuses.map(|status| (status.clone(), ServerStatus::parse(&status))).collect()
}
