//! Noticing and reporting a child's end.

use rustix::process::{Pid, Signal, kill_process};
use tieline_testkit::wait::block_on;
use tieline_transport::{Health, SenderExt};

use super::*;

#[test]
fn exit_is_noticed_at_once_without_a_write() {
    block_on(async {
        // The test does not depend on time: the child would outlive it.
        let config = ProcessConfig { stop: PATIENT, ..shell("echo $$; exec sleep 10000") };
        let (_sender, mut receiver, control) = lines(&config).await;
        let child = pid(&mut receiver).await;
        assert_eq!(control.health(), Health::Up);
        assert!(wait::poll_once(receiver.recv()).await.is_none());

        kill_process(Pid::from_raw(child as i32).unwrap(), Signal::KILL).unwrap();
        let reason = end(receiver.recv().await);
        assert!(!reason.is_clean());
        assert_eq!(Exit::from(exit(reason)), Exit::signal(9));
        assert_eq!(control.health(), Health::Down);
    });
}

#[test]
fn close_reason_has_the_exit_code_and_the_end_of_stderr() {
    for (script, expected) in [
        ("exit 0", Exit::code(0, "")),
        ("echo oops >&2; exit 3", Exit::code(3, "oops\n")),
        ("echo out; echo first >&2; echo last >&2; exit 255", Exit::code(255, "first\nlast\n")),
        ("printf unfinished >&2; exit 1", Exit::code(1, "unfinished")),
        ("kill -TERM $$", Exit::signal(15)),
    ] {
        block_on(async {
            let (_sender, mut receiver, control) = lines(&shell(script)).await;
            let reason = loop {
                match receiver.recv().await {
                    Incoming::Message(message) => assert_eq!(message, "out"),
                    other => break end(other),
                }
            };
            assert_eq!(reason.is_clean(), expected.code == Some(0), "{reason}");
            let told = control.close_reason().unwrap();
            assert_eq!(told.to_string(), reason.to_string());
            assert_eq!(Exit::from(exit(reason)), expected, "{script}");
            assert!(told.to_string().contains(&expected.code.unwrap_or(15).to_string()), "{told}");
        });
    }
}

#[test]
fn close_reason_shows_the_last_line_of_stderr() {
    block_on(async {
        let script = "echo 'panicked at x.rs:1' >&2; echo >&2; exit 101";
        let (_sender, mut receiver, _) = lines(&shell(script)).await;
        let reason = end(receiver.recv().await).to_string();
        assert!(reason.contains("exit status: 101"), "{reason}");
        assert!(reason.contains("panicked at x.rs:1"), "{reason}");
    });
}

#[test]
fn unterminated_line_is_a_message_only_if_the_child_succeeded() {
    for (script, is_message) in [
        ("echo whole; printf half; exit 0", true),
        ("echo whole; printf half; exit 1", false),
        ("echo whole; printf half; kill -KILL $$", false),
    ] {
        block_on(async {
            let (_sender, mut receiver, control) = lines(&shell(script)).await;
            assert_eq!(message(receiver.recv().await), "whole");
            if is_message {
                assert_eq!(message(receiver.recv().await), "half");
            }
            let reason = end(receiver.recv().await);
            assert_eq!(reason.is_clean(), is_message, "{reason}");
            let exit = exit(reason);
            assert_eq!(exit.unterminated, is_message, "{script}");
            assert_eq!(exit.truncated.map(|it| it.received), (!is_message).then_some(4));
            assert_eq!(control.info().messages_in, 1 + u64::from(is_message));
        });
    }
}

#[test]
fn all_output_written_before_the_exit_arrives() {
    block_on(async {
        // The output does not fit into the pipe, so the child blocks until it is read.
        let script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; exit 7";
        let (_sender, mut receiver, _) = lines(&shell(script)).await;
        for number in 0..20_000 {
            assert_eq!(message(receiver.recv().await), number.to_string());
        }
        assert_eq!(Exit::from(exit(end(receiver.recv().await))), Exit::code(7, ""));
    });
}

#[test]
fn child_that_closes_its_stdout_and_keeps_running_ends_the_line() {
    block_on(async {
        let drain = Duration::from_millis(50);
        let stop = StopTimeouts { drain, ..StopTimeouts::default() };
        let config = shell("echo $$; exec >&-; exec sleep 10000");
        let (sender, mut receiver, control) = lines(&ProcessConfig { stop, ..config }).await;
        let child = pid(&mut receiver).await;
        let reason = end(receiver.recv().await);
        assert!(matches!(reason, CloseReason::StdoutClosed), "{reason:?}");
        assert!(!reason.is_clean() && reason.hint().is_some());
        assert!(matches!(control.close_reason(), Some(CloseReason::StdoutClosed)));
        assert!(wait::is_running(child));
        drop((sender, receiver));
        wait::until_reaped(child);
    });
}

#[test]
fn child_that_closes_its_stdin_can_still_send() {
    block_on(async {
        let script = "exec <&-; echo first; echo second; exit 5";
        let (mut sender, mut receiver, _) = lines(&shell(script)).await;
        assert_eq!(message(receiver.recv().await), "first");
        let error = loop {
            if let Err(error) = sender.send("hello?").await {
                break error;
            }
        };
        assert!(matches!(error.close_reason(), Some(CloseReason::StdinClosed)), "{error:?}");
        assert_eq!(message(receiver.recv().await), "second");
        assert_eq!(Exit::from(exit(end(receiver.recv().await))), Exit::code(5, ""));
    });
}

#[test]
fn grandchild_that_holds_stdout_does_not_keep_the_line_open() {
    for (script, code) in [
        ("sleep 10000 & echo $!; exit 0", 0),
        // The grandchild holds only stderr, or ignores the signals to terminate.
        ("sleep 10000 >/dev/null & echo $!; exit 4", 4),
        ("trap '' TERM HUP; sleep 10000 & echo $!; exit 0", 0),
    ] {
        block_on(async {
            let drain = Duration::from_millis(50);
            let stop = StopTimeouts { drain, ..StopTimeouts::default() };
            let config = ProcessConfig { stop, ..shell(script) };
            let (_sender, mut receiver, _) = lines(&config).await;
            let grandchild = pid(&mut receiver).await;
            let reason = end(receiver.recv().await);
            assert_eq!(Exit::from(exit(reason)), Exit::code(code, ""), "{script}");
            wait::until_ended(grandchild);
        });
    }
}

#[test]
fn output_of_a_grandchild_is_read_after_the_childs_exit() {
    block_on(async {
        let config = shell("exec 3<&0; (read line <&3; echo \"heard $line\") & exit 6");
        let config = ProcessConfig { stop: PATIENT, ..config };
        let (mut sender, mut receiver, control) = lines(&config).await;
        while control.health() == Health::Up {
            assert!(wait::poll_once(receiver.recv()).await.is_none());
            tokio::task::yield_now().await;
        }
        sender.send("it").await.unwrap();
        assert_eq!(message(receiver.recv().await), "heard it");
        assert_eq!(Exit::from(exit(end(receiver.recv().await))), Exit::code(6, ""));
    });
}

/// The writer has left the process group and cannot be killed without a guardian. It ends with the pipe.
#[test]
fn endless_output_of_an_escaped_process_does_not_keep_the_line_open() {
    block_on(async {
        let config = shell("setsid yes & exit 3");
        let (_sender, mut receiver, _) = lines(&config).await;
        let exit = loop {
            match receiver.recv().await {
                Incoming::Message(_) => {}
                other => break exit(end(other)),
            }
        };
        assert_eq!(exit.status.code(), Some(3), "{exit}");
    });
}

/// The kernel reports the bytes that are left in the pipe, even if the input was not ended.
#[cfg(target_os = "linux")]
#[test]
fn exit_reports_how_much_input_was_left_unread() {
    for (script, unread) in [("read -r a; exit 0", 12), ("cat >/dev/null; exit 3", 0)] {
        for ends_input in [false, true] {
            if !ends_input && unread == 0 {
                continue;
            }
            block_on(async {
                // The child starts reading when all lines are in the pipe.
                let directory = tempfile::tempdir().unwrap();
                let begin = directory.path().join("begin");
                let script =
                    format!("while ! [ -e {} ]; do sleep 0.01; done; {script}", begin.display());
                let (mut sender, mut receiver, _) = lines(&shell(&script)).await;
                for line in ["one", "other", "third"] {
                    sender.send(line).await.unwrap();
                }
                if ends_input {
                    sender.close().await.unwrap();
                }
                std::fs::write(&begin, "").unwrap();
                let reason = end(receiver.recv().await);
                let exit = exit(reason.clone());
                assert_eq!(exit.unread, Some(unread), "{script}, input ended: {ends_input}");
                assert_eq!(reason.to_string().contains("12 bytes of its input unread"), unread > 0);
                drop(sender);
            });
        }
    }
}

/// The stream ends before the exit status is known.
#[test]
fn stop_returns_the_status_of_a_child_that_had_closed_its_stdout() {
    block_on(async {
        let drain = Duration::from_millis(50);
        let stop = StopTimeouts { drain, ..StopTimeouts::default() };
        let config = shell("exec >&-; read -r line; exit 6");
        let (mut sender, mut receiver, control) = lines(&ProcessConfig { stop, ..config }).await;
        let reason = end(receiver.recv().await);
        assert!(matches!(reason, CloseReason::StdoutClosed), "{reason:?}");
        sender.close().await.unwrap();
        assert_eq!(Exit::from(exit(control.stop().await)), Exit::code(6, ""));
    });
}

/// SIGCONT follows SIGTERM: a stopped process handles no signal but SIGKILL until it continues.
#[cfg(target_os = "linux")]
#[test]
fn stopped_child_in_its_own_session_ends_at_sigterm() {
    block_on(async {
        let (end_of_input, terminate) = (Duration::ZERO, wait::LIMIT);
        let stop = StopTimeouts { end_of_input, terminate, ..StopTimeouts::default() };
        let script = "trap 'exit 7' TERM; set -- $(cat /proc/$$/stat); echo $$; echo $6; echo $7; \
                      sleep 10000 & wait";
        let config = ProcessConfig { stop, ..shell(script) };
        let (_sender, mut receiver, control) = lines(&config).await;
        let child = pid(&mut receiver).await;
        assert_eq!(pid(&mut receiver).await, child, "the child leads its session");
        assert_eq!(pid(&mut receiver).await, 0, "the child has no terminal");
        let pid = Pid::from_raw(child.cast_signed()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        assert_eq!(Exit::from(exit(control.stop().await)), Exit::code(7, ""));
    });
}
