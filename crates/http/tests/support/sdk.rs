//! Starts third-party programs from the fixtures: Node's `eventsource`, and the client and server of the
//! MCP SDK.

use std::path::PathBuf;
use std::process::Stdio;

use tieline_http::ClientConfig;
use tieline_transport::{Acceptor, Channel, Endpoint, Incoming, Options, ReceiverExt, SenderExt};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{LIMIT, Served, registry_with};

/// Returns the folder of the fixtures. Panics if `variable` is not set.
pub fn fixtures(variable: &str) -> PathBuf {
    let folder = std::env::var_os(variable);
    PathBuf::from(folder.unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test`")))
}

/// Returns a command that runs `events-peer.js`. The arguments to add select the mode.
pub fn node() -> Command {
    let mut command = Command::new("node");
    command.arg(fixtures("TIELINE_NODE_FIXTURES").join("events-peer.js")).kill_on_drop(true);
    command
}

pub async fn prints_ok(mut command: Command) {
    let running = tokio::time::timeout(LIMIT, command.output());
    let output = running.await.expect("the fixture hangs").unwrap();
    assert!(output.status.success() && output.stdout == b"ok\n", "{output:?}");
}

/// Starts a server of the SDK. Returns its process and its URL.
pub async fn started() -> (Child, Endpoint) {
    let mut server = node();
    let server = server.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = server.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    (server, format!("http://127.0.0.1:{}/mcp/sse", line.trim()).parse().unwrap())
}

/// Bridges the next plain line of `served` to a server of the SDK, until one of them ends.
pub async fn sdk_behind(served: &mut Served) {
    let (_server, url) = started().await;
    let near = Acceptor::accept(&mut served.plain).await.unwrap();
    let registry = registry_with(ClientConfig::default());
    let far = registry.connect(&url, &Options::default()).await.unwrap();
    let ((mut near_out, mut near_in), (mut far_out, mut far_in)) = (near.split(), far.split());
    loop {
        tokio::select! {
            incoming = near_in.recv() => match incoming {
                Incoming::Message(message) => far_out.send(message).await.unwrap(),
                _ => return,
            },
            incoming = far_in.recv() => match incoming {
                Incoming::Message(message) => near_out.send(message).await.unwrap(),
                _ => return,
            },
        }
    }
}
