//! Shared code of the end-to-end tests: the program under test, which is always stopped at the end,
//! clients with time limits, process information from `/proc`, and real programs.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

mod browser;
mod client;
mod fixtures;
#[cfg(unix)]
pub(crate) mod mcp;
#[cfg(unix)]
mod prefix;
mod proc;
mod program;
mod serve;
#[cfg(unix)]
pub(crate) mod site;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

pub(crate) use browser::{Browser, CONNECTED, TOKEN as WEB_TOKEN, WebSite};
pub(crate) use client::{Client, Talk, request};
pub(crate) use fixtures::{
    acp_agent, acp_client, acp_crate_client, browser_driver, claude, content_length_server,
    mcp_client, mcp_sdk, server_everything, vscode_jsonrpc, ws, xi_core,
};
#[cfg(unix)]
pub(crate) use prefix::Prefix;
pub(crate) use proc::{Usage, children_of, is_running, marked, usage};
pub(crate) use program::{Finished, Program, copied, tieline};
pub(crate) use serve::{Serve, new_mark, path_of};

/// The limit of every wait, after which a test that hangs fails. Even on a busy machine, no step takes
/// this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Runs a client whose connections are cut at intervals, until it succeeds. The shortest interval is
/// tried first, and a slow machine needs a longer one to finish a handshake. The client must succeed
/// with one of them.
#[allow(dead_code)]
#[track_caller]
pub(crate) fn through_cuts<W>(mut run: impl FnMut(&str) -> (W, Finished)) -> (W, Finished) {
    let intervals = ["50ms", "200ms", "800ms", "3200ms"];
    let mut last = None;
    for interval in intervals {
        let (way, finished) = run(interval);
        if finished.code == Some(0) {
            return (way, finished);
        }
        let is_handshake = finished.stderr.contains("ended during the handshake");
        assert!(is_handshake, "cut every {interval}: {finished:?}");
        last = Some(finished);
    }
    panic!("cut every {}: {last:?}", intervals[3]);
}

/// Returns a TCP port on which no process listens. The port is bound, so that no other process gets it.
pub(crate) fn closed_port() -> (tokio::net::TcpSocket, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Polls until the condition is true. This is for conditions that do not cause an event.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out after {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the arguments that serve a shell script: `-- sh -c script`.
pub(crate) fn sh(script: &str) -> [&str; 4] {
    ["--", "sh", "-c", script]
}
