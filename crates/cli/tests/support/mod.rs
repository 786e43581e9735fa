//! What the end-to-end tests share: the program under test, started and surely ended again; clients
//! that never wait for ever; what `/proc` knows; the real programs to talk to.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

mod browser;
mod client;
mod fixtures;
#[cfg(unix)]
mod prefix;
mod proc;
mod program;
mod serve;
#[cfg(unix)]
pub(crate) mod site;

use std::time::{Duration, Instant};

pub(crate) use browser::{Browser, CONNECTED, TOKEN as WEB_TOKEN, WebSite};
pub(crate) use client::{Client, Talk, request};
pub(crate) use fixtures::{
    browser_driver, claude, content_length_server, server_everything, vscode_jsonrpc, ws, xi_core,
};
#[cfg(unix)]
pub(crate) use prefix::Prefix;
pub(crate) use proc::{Usage, children_of, is_running, marked, usage};
pub(crate) use program::{Finished, Program, copied, tieline};
pub(crate) use serve::{Serve, new_mark, path_of};

/// Fails a test that hangs. Nothing that a test waits for takes this long, on a busy machine either.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Runs a client whose connections are cut, with the shortest interval between cuts in which this machine
/// finishes a handshake. The client must succeed with one of them.
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

/// Looks again and again until it is so, for what has no event to wait for.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {LIMIT:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The arguments of a shell script as a program: `sh -c script`.
pub(crate) fn sh(script: &str) -> [&str; 4] {
    ["--", "sh", "-c", script]
}
