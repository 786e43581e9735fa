//! A process's own stdin and stdout as a line: each test's line is that of a helper process, and
//! the test has the other end.
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

/// In the helper process: the line.
async fn take() -> (impl Sender, impl Receiver) {
    let patient = ChannelConfig { stall_timeout: wait::LIMIT, ..ChannelConfig::default() };
    let connection = Stdio.connect(&StdioConfig).await.unwrap();
    FramedChannel::new(connection, Lines::default(), patient).split()
}

/// In the helper process: gives each message back, and ends when its input does.
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

/// Gives it the input to its end, and returns all of its stdout and stderr.
fn converse(helper: &mut Command, input: &str) -> (String, String) {
    let mut helper = spawn(helper);
    helper.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = helper::finish(helper);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// Everything up to the end.
fn all_of(mut stream: impl Read + Send + 'static) -> String {
    wait::blocking("the end of the stream", move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

#[test]
fn what_is_printed_astray_lands_on_stderr_and_not_in_the_stream() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        // Still in a buffer when stdout is taken.
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
fn stdin_and_stdout_may_be_anything() {
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
fn the_descriptors_stay_in_blocking_mode_for_those_who_share_them() {
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
    let answer = wait::blocking("an answer", move || answers.next().unwrap().unwrap());
    assert_eq!(answer, "hello");
    assert_blocking("while it runs");
    drop(to_helper);
    helper::finish(running);
    assert_blocking("when it has ended");
}

#[test]
fn the_process_ends_while_its_stdin_is_open_and_its_stdout_is_full() {
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
        ("in tasks of a runtime that goes", || {
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
fn the_end_of_stdin_is_told_and_output_still_goes_out() {
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
fn the_last_line_of_stdin_needs_no_newline() {
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
fn stdin_and_stdout_are_taken_once() {
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
fn output_larger_than_the_pipe_is_whole_for_a_slow_reader() {
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
    // A few bytes at a time are slower than any writer.
    let slow = BufReader::with_capacity(50, running.stdout.take().unwrap());
    let received: Vec<_> = wait::blocking("the end", || slow.lines().map(Result::unwrap).collect());
    assert_eq!(received.len(), MESSAGES);
    for (number, received) in received.into_iter().enumerate() {
        assert!(received == message(number), "{number}");
    }
    helper::finish(running);
}

#[test]
fn children_that_are_started_afterwards_do_not_hold_the_line() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let (mut sender, mut receiver) = take().await;
            // It inherits all that can be inherited, and would take a line of stdin.
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
    // The end comes while the child lives.
    assert_eq!(all_of(running.stdout.take().unwrap()), "last\n");
    running.stdin.take().unwrap().write_all(b"for us\n").unwrap();
    helper::finish(running);
}

#[test]
fn a_reader_that_goes_away_is_an_error_and_no_signal() {
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
            // The other direction goes on.
            assert!(matches!(receiver.recv().await, Incoming::Message(it) if it == "yes"));
        });
    });
    let mut running = spawn(&mut helper);
    drop(running.stdout.take());
    running.stdin.take().unwrap().write_all(b"gone\nyes\n").unwrap();
    helper::finish(running);
}

#[test]
fn a_reader_that_goes_away_is_noticed_without_a_write() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let (mut sender, mut receiver) = take().await;
            assert!(Stdio.connect(&StdioConfig).await.is_err(), "taken");
            assert!(poll_once(sender.gone()).await.is_none(), "it is there");
            assert!(matches!(receiver.recv().await, Incoming::Message(_)));
            sender.gone().await;
        });
    });
    let (stdin, mut to_helper) = io::pipe().unwrap();
    let (from_helper, stdout) = io::pipe().unwrap();
    let kept = stdout.try_clone().unwrap();
    helper.stdin(stdin).stdout(stdout).stderr(Piped::piped());
    let running = helper.spawn().unwrap();
    to_helper.write_all(b"the reader goes\n").unwrap();
    drop(from_helper);
    helper::finish(running);
    let flags = rustix::fs::fcntl_getfl(&kept).unwrap();
    assert!(!flags.contains(OFlags::NONBLOCK), "others share it");
}

#[test]
fn nothing_is_gone_where_nothing_reads_or_after_the_end_of_output() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let (mut sender, mut receiver) = take().await;
            assert!(poll_once(sender.gone()).await.is_none());
            sender.send("last").await.unwrap();
            sender.close().await.unwrap();
            // The test has seen the end of output by now, whoever watches it.
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
fn closing_does_not_wait_for_ever_for_a_far_side_that_does_not_read() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let mut connection = Stdio.connect(&StdioConfig).await.unwrap();
            // More than the pipe holds, and not more than is taken on the way to it.
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
fn stdio_is_connected_to_and_never_listened_on() {
    let error = block_on(Stdio.listen(&StdioConfig)).map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error:?}");
    assert!(error.hint().unwrap().contains("connect"));
}
