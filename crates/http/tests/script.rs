//! The module for pages, `/tieline.js`, in Node: another implementation of the session protocol. What it does
//! in a browser is tested with the program.
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

/// A machine may be slow, so what counts is that something goes on: each line on stderr does, and is shown
/// as it comes, so that nothing is lost of what a script has said that fails or hangs.
///
/// How many lines there were.
async fn says_ok(mut command: Command) -> usize {
    let mut script = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(script.stderr.take().unwrap()).lines();
    let mut next_line = async || {
        let line = tokio::time::timeout(LIMIT, progress.next_line()).await;
        line.unwrap_or_else(|_| panic!("it hangs: nothing was said for {LIMIT:?}")).unwrap()
    };
    let mut lines = 0;
    while let Some(line) = next_line().await {
        eprintln!("{line}");
        lines += 1;
    }
    let mut said = String::new();
    script.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
    let status = script.wait().await.unwrap();
    assert!(status.success() && said == "ok\n", "{status}: {said:?}");
    lines
}

/// A client of sessions that are given back what they say. How many sessions
/// there were, WebSockets, and lines of progress.
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
    let mut running = Box::pin(says_ok(command));
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

/// Gives back what comes, and cuts every connection now and then.
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
async fn it_agrees_on_the_golden_vectors() {
    let mut command = node("vectors");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/tests/vectors/session-1.txt"));
    says_ok(command).await;
}

#[tokio::test]
async fn it_takes_keeps_tells_and_refuses_what_the_protocol_says() {
    says_ok(node("rules")).await;
}

#[tokio::test]
async fn it_asks_who_is_silent_and_comes_again_to_who_is_away() {
    says_ok(node("waits")).await;
}

#[tokio::test]
async fn a_page_that_is_loaded_again_and_again_loses_and_doubles_nothing() {
    let (sessions, web_sockets, pages) = run("pages").await;
    println!("{pages} pages, {web_sockets} WebSockets");
    assert_eq!(sessions, 1);
    // The slower the machine, the more comes at once, and the fewer pages take it all. Of the twenty-three
    // cuts many may fall together, or on a page that goes.
    assert!(pages > 1 && web_sockets >= pages as u64, "{pages} pages, {web_sockets} WebSockets");
}

#[tokio::test]
async fn a_page_is_told_what_was_lost_with_a_session_that_is_no_more() {
    assert_eq!(run("lost").await.0, 1);
}
