//! A process's own stdin and stdout as a line. In each test, a helper process has the line, and the test
//! has its other end.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio as Piped};

use rustix::fs::OFlags;
use tieline_proto::Lines;
use tieline_testkit::wait::{self, block_on, poll_once};
use tieline_testkit::{helper, test_name};
use tieline_transport::{
    Channel, ChannelConfig, CloseReason, ConnectionExt, ErrorKind, FramedChannel, Incoming,
    Operation, Receiver, ReceiverExt, Sender, SenderExt, Stdio, StdioConfig, Transport,
};
use tokio::io::AsyncWriteExt;

/// Takes the line in the helper process.
async fn take() -> (impl Sender, impl Receiver) {
    let patient = ChannelConfig { stall_timeout: wait::LIMIT, ..ChannelConfig::default() };
    let connection = Stdio.connect(&StdioConfig).await.unwrap();
    FramedChannel::new(connection, Lines::default(), patient).split()
}

/// Sends each message back until the input ends. Runs in the helper process.
fn echo() {
    block_on(async {
        let (mut sender, mut receiver) = take().await;
        while let Incoming::Message(message) = receiver.recv().await {
            sender.send(message).await.unwrap();
        }
        sender.close().await.unwrap();
    });
}

fn spawn(helper: &mut Command) -> Child {
    let helper = helper.stdin(Piped::piped()).stdout(Piped::piped()).stderr(Piped::piped());
    helper.spawn().unwrap()
}

/// Writes all of `input` to the helper, and returns its stdout and stderr.
fn converse(helper: &mut Command, input: &str) -> (String, String) {
    let mut helper = spawn(helper);
    helper.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = helper::finish(helper);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// Reads the stream to its end.
fn all_of(mut stream: impl Read + Send + 'static) -> String {
    wait::blocking("the end of the stream", move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

#[test]
fn prints_go_to_stderr_and_not_into_the_stream() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        // This is still buffered when stdout is taken.
        print!("printed before, ");
        block_on(async {
            let (mut sender, mut receiver) = take().await;
            println!("printed after");
            Command::new("sh").args(["-c", "echo printed by a child"]).status().unwrap();
            while let Incoming::Message(message) = receiver.recv().await {
                println!("printed in between");
                sender.send(message).await.unwrap();
            }
            sender.close().await.unwrap();
            println!("printed at last");
        });
    });
    let (stdout, stderr) = converse(&mut helper, "one\ntwo\n");
    assert_eq!(stdout, "one\ntwo\n");
    for printed in ["before", "after", "by a child", "in between", "at last"] {
        assert!(stderr.contains(&format!("printed {printed}")), "{printed}: {stderr}");
    }
}

#[test]
fn stdin_and_stdout_may_be_any_kind_of_descriptor() {
    const INPUT: &str = "{\"id\":1}\n{\"id\":2}\n";
    let mut helper = helper::with_own_stdio(test_name!(), echo);
    let directory = tempfile::tempdir().unwrap();
    let file = |name| directory.path().join(name);
    std::fs::write(file("input"), INPUT).unwrap();

    assert_eq!(converse(&mut helper, INPUT).0, INPUT, "pipes");
    assert_eq!(converse(&mut helper, "").0, "", "an empty pipe");

    let on_files = helper.stdin(File::open(file("input")).unwrap());
    let on_files = on_files.stdout(File::create(file("output")).unwrap()).stderr(Piped::piped());
    helper::finish(on_files.spawn().unwrap());
    assert_eq!(std::fs::read_to_string(file("output")).unwrap(), INPUT, "files");

    let on_null = helper.stdin(Piped::null()).stdout(Piped::piped());
    assert_eq!(helper::finish(on_null.spawn().unwrap()).stdout, b"", "the null device as stdin");
    let to_null = helper.stdin(File::open(file("input")).unwrap()).stdout(Piped::null());
    helper::finish(to_null.spawn().unwrap());

    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let on_socket = helper.stdin(OwnedFd::from(theirs.try_clone().unwrap()));
    let on_socket = on_socket.stdout(OwnedFd::from(theirs)).spawn().unwrap();
    // The command keeps its ends of the socket for the next spawn.
    helper.stdin(Piped::null()).stdout(Piped::null());
    ours.write_all(INPUT.as_bytes()).unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all_of(ours), INPUT, "one socket for both");
    helper::finish(on_socket);
}

#[test]
fn shared_descriptors_stay_in_blocking_mode() {
    let mut helper = helper::with_own_stdio(test_name!(), echo);
    let (stdin, mut to_helper) = io::pipe().unwrap();
    let (from_helper, stdout) = io::pipe().unwrap();
    helper.stdin(stdin.try_clone().unwrap()).stdout(stdout.try_clone().unwrap());
    let running = helper.stderr(Piped::piped()).spawn().unwrap();
    let assert_blocking = |when| {
        for shared in [stdin.as_fd(), stdout.as_fd()] {
            let flags = rustix::fs::fcntl_getfl(shared).unwrap();
            assert!(!flags.contains(OFlags::NONBLOCK), "{when}");
        }
    };
    to_helper.write_all(b"hello\n").unwrap();
    let mut answers = BufReader::new(from_helper).lines();
    let answer = wait::blocking("a response", move || answers.next().unwrap().unwrap());
    assert_eq!(answer, "hello");
    assert_blocking("while the helper runs");
    drop(to_helper);
    helper::finish(running);
    assert_blocking("after the helper has ended");
}

#[test]
fn process_exits_with_stdin_open_and_stdout_full() {
    fn fill(sender: &mut (impl Sender + ?Sized)) -> impl Future<Output = ()> {
        let sent = sender.send("x".repeat(1 << 20));
        async { assert!(poll_once(sent).await.is_none()) }
    }
    type Body = fn();
    let bodies: [(&str, Body); 4] = [
        ("dropped", || {
            block_on(async {
                let (mut sender, mut receiver) = take().await;
                assert!(poll_once(receiver.recv()).await.is_none());
                fill(&mut sender).await;
            });
        }),
        ("kept", || {
            let line = block_on(async {
                let (mut sender, mut receiver) = take().await;
                assert!(poll_once(receiver.recv()).await.is_none());
                fill(&mut sender).await;
                (sender, receiver)
            });
            std::mem::forget(line);
        }),
        ("in tasks of a runtime that shuts down", || {
            block_on(async {
                let (mut sender, mut receiver) = take().await;
                tokio::spawn(async move { receiver.recv().await });
                tokio::spawn(async move { sender.send("x".repeat(1 << 20)).await });
                tokio::task::yield_now().await;
            });
        }),
        ("dropped without a runtime", || {
            let line = block_on(async {
                let (mut sender, receiver) = take().await;
                fill(&mut sender).await;
                (sender, receiver)
            });
            drop(line);
        }),
    ];
    for (name, body) in bodies {
        let mut running =
            spawn(&mut helper::with_own_stdio(format!("{}#{name}", test_name!()), body));
        let _held = (running.stdin.take(), running.stdout.take());
        helper::finish(running);
    }
}

#[test]
fn output_can_be_sent_after_the_end_of_stdin() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let (mut sender, mut receiver) = take().await;
            let reason = loop {
                match receiver.recv().await {
                    Incoming::Message(_) => {}
                    Incoming::End(reason) => break reason,
                    other => panic!("{other:?}"),
                }
            };
            assert!(matches!(reason, CloseReason::ByPeer), "{reason:?}");
            for number in 0..1000 {
                sender.feed(format!("late {number} {}", "x".repeat(500))).await.unwrap();
            }
            sender.close().await.unwrap();
        });
    });
    let (stdout, _) = converse(&mut helper, "question\n");
    assert_eq!(stdout.lines().count(), 1000);
    assert!(stdout.lines().zip(0..).all(|(line, n)| line.starts_with(&format!("late {n} "))));
}

#[test]
fn last_line_of_stdin_needs_no_newline() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let (_sender, mut receiver) = take().await;
            assert!(matches!(receiver.recv().await, Incoming::Message(it) if it == "last"));
            let end = receiver.recv().await;
            assert!(matches!(end, Incoming::End(CloseReason::Unterminated)), "{end:?}");
        });
    });
    converse(&mut helper, "last");
}

#[test]
fn stdin_and_stdout_are_taken_only_once() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let first = Stdio.connect(&StdioConfig).await.unwrap();
            let assert_taken = async || {
                let error = Stdio.connect(&StdioConfig).await.map(drop).unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::AlreadyTaken), "{error:?}");
                assert_eq!(error.operation(), Operation::Connect);
                assert_eq!(error.endpoint().unwrap().to_string(), "stdio:");
                assert!(error.hint().is_some() && !error.is_retryable());
            };
            assert_taken().await;
            drop(first);
            assert_taken().await;
        });
    });
    converse(&mut helper, "");
}

#[test]
fn slow_reader_gets_all_of_a_large_output() {
    const MESSAGES: usize = 500;
    fn message(number: usize) -> String {
        format!("{number} {}", "x".repeat(number * 17 % 9000))
    }
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let (mut sender, _receiver) = take().await;
            for number in 0..MESSAGES {
                sender.send(message(number)).await.unwrap();
            }
            sender.close().await.unwrap();
        });
    });
    let mut running = spawn(&mut helper);
    // Reading a few bytes at a time is slower than any writer.
    let slow = BufReader::with_capacity(50, running.stdout.take().unwrap());
    let received: Vec<_> = wait::blocking("the end", || slow.lines().map(Result::unwrap).collect());
    assert_eq!(received.len(), MESSAGES);
    for (number, received) in received.into_iter().enumerate() {
        assert!(received == message(number), "{number}");
    }
    helper::finish(running);
}

#[test]
fn children_started_later_do_not_hold_the_line_open() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let (mut sender, mut receiver) = take().await;
            // The child inherits every inheritable descriptor, and would read a line of stdin.
            let mut child =
                Command::new("sh").args(["-c", "read line; exec sleep 1000"]).spawn().unwrap();
            sender.send("last").await.unwrap();
            sender.close().await.unwrap();
            assert!(matches!(receiver.recv().await, Incoming::Message(it) if it == "for us"));
            assert!(matches!(receiver.recv().await, Incoming::End(_)));
            child.kill().unwrap();
            child.wait().unwrap();
        });
    });
    let mut running = spawn(&mut helper);
    // The output ends while the child is still running.
    assert_eq!(all_of(running.stdout.take().unwrap()), "last\n");
    running.stdin.take().unwrap().write_all(b"for us\n").unwrap();
    helper::finish(running);
}

#[test]
fn closed_reader_is_an_error_and_not_a_signal() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let (mut sender, mut receiver) = take().await;
            assert!(matches!(receiver.recv().await, Incoming::Message(_)));
            let error = loop {
                if let Err(error) = sender.send("is there anybody?").await {
                    break error;
                }
            };
            assert!(matches!(error.close_reason(), Some(CloseReason::Io(_))), "{error:?}");
            // The other direction continues.
            assert!(matches!(receiver.recv().await, Incoming::Message(it) if it == "yes"));
        });
    });
    let mut running = spawn(&mut helper);
    drop(running.stdout.take());
    running.stdin.take().unwrap().write_all(b"gone\nyes\n").unwrap();
    helper::finish(running);
}

#[test]
fn closed_reader_is_noticed_without_a_write() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let (mut sender, mut receiver) = take().await;
            assert!(Stdio.connect(&StdioConfig).await.is_err(), "stdio was taken twice");
            assert!(poll_once(sender.gone()).await.is_none(), "the reader is there");
            sender.send("ready").await.unwrap();
            assert!(matches!(receiver.recv().await, Incoming::Message(_)));
            sender.gone().await;
        });
    });
    let (stdin, mut to_helper) = io::pipe().unwrap();
    let (from_helper, stdout) = io::pipe().unwrap();
    let kept = stdout.try_clone().unwrap();
    helper.stdin(stdin).stdout(stdout).stderr(Piped::piped());
    let running = helper.spawn().unwrap();
    let ready = wait::blocking("the helper", move || {
        let mut line = String::new();
        BufReader::new(from_helper).read_line(&mut line).unwrap();
        line
    });
    assert_eq!(ready, "ready\n");
    to_helper.write_all(b"the reader is gone\n").unwrap();
    helper::finish(running);
    let flags = rustix::fs::fcntl_getfl(&kept).unwrap();
    assert!(!flags.contains(OFlags::NONBLOCK), "other processes share it");
}

#[test]
fn gone_never_completes_on_files_or_after_the_end_of_output() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let (mut sender, mut receiver) = take().await;
            assert!(poll_once(sender.gone()).await.is_none());
            sender.send("last").await.unwrap();
            sender.close().await.unwrap();
            // By now the test has seen the end of the output.
            assert!(matches!(receiver.recv().await, Incoming::Message(_)));
            assert!(poll_once(sender.gone()).await.is_none());
        });
    });
    let mut running = spawn(&mut helper);
    assert_eq!(all_of(running.stdout.take().unwrap()), "last\n");
    running.stdin.take().unwrap().write_all(b"seen\n").unwrap();
    helper::finish(running);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("output");
    let on_file = helper.stdin(Piped::piped()).stdout(File::create(&file).unwrap());
    let mut running = on_file.stderr(Piped::piped()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(b"seen\n").unwrap();
    helper::finish(running);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "last\n");
}

#[test]
fn close_does_not_wait_forever_for_a_peer_that_does_not_read() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let mut connection = Stdio.connect(&StdioConfig).await.unwrap();
            // The bytes do not fit into the pipe, but into the queue in front of it.
            connection.write_all(&[b'x'; 100_000]).await.unwrap();
            let reason = connection.close().await;
            assert!(matches!(reason, CloseReason::ByUs), "{reason:?}");
        });
    });
    let mut running = spawn(&mut helper);
    let _held = (running.stdin.take(), running.stdout.take());
    helper::finish(running);
}

#[test]
fn stdio_supports_connecting_but_not_listening() {
    let error = block_on(Stdio.listen(&StdioConfig)).map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error:?}");
    assert!(error.hint().unwrap().contains("connect"));
}
