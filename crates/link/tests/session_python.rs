//! Sessions with the Python implementation of the protocol, over connections that it cuts.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Stdio;

use tieline_link::{SessionOptions, connector, listen};
use tieline_testkit::wait::block_on;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, Endpoint, Incoming, Options, Receiver, ReceiverExt, Registry,
    Sender, SenderExt,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

const MESSAGES: usize = 300;

struct Python {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Python {
    fn start(role: &str, socket: &Path) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/python/session.py");
        let mut command = Command::new("python3");
        command.arg(program).arg(role).arg(socket).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output }
    }
}

fn message(from: &str, at: usize) -> String {
    format!("{from} {at}")
}

async fn send_all(mut sender: impl Sender) -> impl Sender {
    for at in 0..MESSAGES {
        sender.send(message("rust", at)).await.unwrap();
    }
    sender.close().await.unwrap();
    sender
}

async fn take_all(mut receiver: impl Receiver) -> impl Receiver {
    for at in 0..MESSAGES {
        match receiver.recv().await {
            Incoming::Message(it) => assert_eq!(it, message("python", at)),
            other => panic!("{other:?} in place of message {at}"),
        }
    }
    let end = receiver.recv().await;
    assert!(matches!(&end, Incoming::End(reason) if reason.is_clean()), "{end:?}");
    receiver
}

/// Sends messages both ways, with cuts between and within frames, until both directions have ended. Python sends the
/// second half after this side has ended its direction, so that nothing but its own messages brings on a cut.
async fn converse(python: Python, channel: BoxChannel) {
    let Python { mut child, mut input, mut output } = python;
    let (sender, receiver) = channel.split();
    let (has_ended, ended) = oneshot::channel();
    let feeding = tokio::spawn(async move {
        let mut ended = Some(ended);
        for at in 0..MESSAGES {
            if let Some(ended) = ended.take_if(|_| at == MESSAGES / 2) {
                ended.await.unwrap();
            }
            let cut = match at % 60 {
                20 => "cut\n".to_owned(),
                40 => format!("cut {}\n", 1 + at / 4),
                _ => String::new(),
            };
            let lines = format!("send {}\n{cut}", message("python", at));
            input.write_all(lines.as_bytes()).await.unwrap();
        }
    });
    let reading = tokio::spawn(async move {
        let (mut next, mut connections, mut has_ended) = (0, 0, Some(has_ended));
        while let Some(line) = output.next_line().await.unwrap() {
            match line.split(' ').next() {
                Some("message") => {
                    assert_eq!(line, format!("message {} {}", next + 1, message("rust", next)));
                    next += 1;
                }
                Some("open") => connections += 1,
                Some("ended") => has_ended.take().into_iter().for_each(|it| it.send(()).unwrap()),
                _ => {}
            }
        }
        assert_eq!(next, MESSAGES);
        connections
    });
    // Keep both halves until the end: dropping the last one would end the session.
    let halves = tokio::join!(send_all(sender), take_all(receiver));
    feeding.await.unwrap();
    let connections = reading.await.unwrap();
    assert!(connections > 2, "{connections} connections");
    assert!(child.wait().await.unwrap().success());
    drop(halves);
}

#[test]
fn python_client_completes_a_session_despite_cuts() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let endpoint = Endpoint::unix(&socket).resumable();
        let (options, session) = (Options::default(), SessionOptions::default());
        let mut acceptor = listen(&Registry::new(), &endpoint, &options, session).await.unwrap();
        let python = Python::start("client", &socket);
        let channel = acceptor.accept().await.unwrap();
        converse(python, channel).await;
    });
}

#[test]
fn python_server_completes_a_session_despite_cuts() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let mut python = Python::start("server", &socket);
        assert_eq!(python.output.next_line().await.unwrap().unwrap(), "listening");
        let endpoint = Endpoint::unix(&socket).resumable();
        let (options, session) = (Options::default(), SessionOptions::default());
        let connector = connector(&Registry::new(), &endpoint, &options, session).unwrap();
        let channel = connector.connect().await.unwrap();
        converse(python, channel).await;
    });
}

/// The client has no connection when the session ends.
#[test]
fn python_client_that_returns_to_an_ended_session_gets_the_last_message_and_the_reason() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let (socket, hidden) = (directory.path().join("s"), directory.path().join("hidden"));
        let endpoint = Endpoint::unix(&socket).resumable();
        let (options, session) = (Options::default(), SessionOptions::default());
        let mut acceptor = listen(&Registry::new(), &endpoint, &options, session).await.unwrap();
        let Python { mut child, mut input, mut output } = Python::start("client", &socket);
        let server = acceptor.accept().await.unwrap();
        let control = server.control().clone();
        let (mut sender, mut receiver) = server.split();
        input.write_all(b"send read\n").await.unwrap();
        assert!(matches!(receiver.recv().await, Incoming::Message(_)));
        std::fs::rename(&socket, &hidden).unwrap();
        input.write_all(b"cut\nsend unread\n").await.unwrap();
        while control.info().session.is_some_and(|session| session.is_connected) {
            tokio::task::yield_now().await;
        }
        sender.send("last").await.unwrap();
        control.report_at_close(CloseReason::InputUnread(6));
        drop((sender, receiver));
        std::fs::rename(&hidden, &socket).unwrap();
        let mut said = Vec::new();
        while let Some(line) = output.next_line().await.unwrap() {
            said.push(line);
        }
        let bye = format!("bye 1 {}", CloseReason::InputUnread(6));
        assert_eq!(said.last(), Some(&bye), "{said:?}");
        assert!(said.contains(&"message 1 last".to_owned()), "{said:?}");
        assert!(child.wait().await.unwrap().success());
    });
}
