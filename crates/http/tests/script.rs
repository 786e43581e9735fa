//! Tests of `/tieline.js`, the module for web pages and second implementation of the session protocol,
//! in Node. The tests of `tieline-cli` run it in a browser.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use support::{LIMIT, TOKEN, config, cutter, serve};
use tieline_http::ServerConfig;
use tieline_link::{LineOptions, Session, SessionOptions, Sessions};
use tieline_transport::{Acceptor, Channel, DynAcceptor, Incoming, ReceiverExt, SenderExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::task::JoinSet;

fn node(mode: &str) -> Command {
    let folder = std::env::var_os("TIELINE_NODE_FIXTURES").map(PathBuf::from);
    let folder = folder.expect("TIELINE_NODE_FIXTURES is not set: run `cargo xtask test`");
    let mut command = Command::new("node");
    command.arg(folder.join("session.js")).arg(mode);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/page")).kill_on_drop(true);
    command
}

/// Waits until the script prints `ok` and exits. The time limit applies to each line of progress on
/// stderr, because the machine may be slow. Each line is printed when it arrives, so that it is visible
/// if the script fails or hangs.
///
/// Returns the number of progress lines.
async fn prints_ok(mut command: Command) -> usize {
    let mut script = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(script.stderr.take().unwrap()).lines();
    let mut next_line = async || {
        let line = tokio::time::timeout(LIMIT, progress.next_line()).await;
        line.unwrap_or_else(|_| panic!("the script hangs: no output for {LIMIT:?}")).unwrap()
    };
    let mut lines = 0;
    while let Some(line) = next_line().await {
        eprintln!("{line}");
        lines += 1;
    }
    let mut printed = String::new();
    script.stdout.take().unwrap().read_to_string(&mut printed).await.unwrap();
    let status = script.wait().await.unwrap();
    assert!(status.success() && printed == "ok\n", "{status}: {printed:?}");
    lines
}

/// Runs the script against a server whose sessions echo messages. Returns the numbers of sessions,
/// WebSockets and progress lines.
async fn run(mode: &str) -> (usize, u64, usize) {
    let hosts = vec!["127.0.0.1".into()];
    let served = serve(ServerConfig { hosts, ..config() }).await;
    let (port, cut) = cutter(served.port).await;
    let acceptor: Box<dyn DynAcceptor> = Box::new(served.resumable.unwrap());
    let options = SessionOptions::default();
    let mut sessions = Sessions::new(acceptor, options, LineOptions::default());
    let mut command = node(mode);
    command.args([&format!("ws://127.0.0.1:{port}/ws"), TOKEN]);
    let (mut echoes, mut count) = (JoinSet::new(), 0);
    let mut running = Box::pin(prints_ok(command));
    let lines = loop {
        tokio::select! {
            lines = &mut running => break lines,
            session = Acceptor::accept(&mut sessions) => {
                count += 1;
                echoes.spawn(echo(session.unwrap(), cut.clone()));
            }
        }
    };
    (count, served.web.counts().web_sockets, lines)
}

/// Echoes messages, and cuts all connections after every 170 messages.
async fn echo(session: Session, cut: Arc<Notify>) {
    let (mut sender, mut receiver) = session.split();
    for number in 1.. {
        let Incoming::Message(message) = receiver.recv().await else { break };
        sender.send(message).await.unwrap();
        if number % 170 == 0 {
            cut.notify_waiters();
        }
    }
    sender.close().await.unwrap();
    let _ = sender.settle().await;
}

#[tokio::test]
async fn script_agrees_with_the_golden_vectors() {
    let mut command = node("vectors");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/tests/vectors/session-1.txt"));
    prints_ok(command).await;
}

#[tokio::test]
async fn script_follows_the_rules_of_the_session_protocol() {
    prints_ok(node("rules")).await;
}

#[tokio::test]
async fn script_pings_a_silent_server_and_reconnects_to_a_lost_one() {
    prints_ok(node("waits")).await;
}

#[tokio::test]
async fn a_page_that_is_reloaded_repeatedly_loses_and_duplicates_nothing() {
    let (sessions, web_sockets, pages) = run("pages").await;
    println!("{pages} pages, {web_sockets} WebSockets");
    assert_eq!(sessions, 1);
    // On a slower machine, more messages arrive at once, and fewer pages receive them all. Several of
    // the 23 cuts may coincide, or affect a page that is about to be terminated.
    assert!(pages > 1 && web_sockets >= pages as u64, "{pages} pages, {web_sockets} WebSockets");
}

#[tokio::test]
async fn a_page_learns_which_messages_were_lost_with_an_unknown_session() {
    assert_eq!(run("lost").await.0, 1);
}
