//! Tests of when a link reconnects, and which states and reasons it reports.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::{Step, drain, end, kill, last, link, message, pid, reset, shell, state, within};
use tieline_link::{LineState, Link, LinkOptions, Recovery};
use tieline_proto::{BackoffConfig, RestartPolicy};
use tieline_testkit::wait;
use tieline_transport::{Channel, CloseReason, ErrorKind, Incoming, ReceiverExt, SenderExt};
use tokio::time::Instant;

fn restart(policy: RestartPolicy) -> LinkOptions {
    LinkOptions::recovering(Recovery::Restart(policy))
}

const ECHO: &str = "echo $$; exec cat";

#[tokio::test]
async fn killed_child_is_restarted_and_the_receiver_gets_a_reset() {
    let link = Link::connect(shell(ECHO), LinkOptions::default()).await.unwrap();
    let control = link.control().clone();
    let (mut sender, mut receiver) = link.split();
    let mut last_pid = 0;
    for epoch in 2..5 {
        let child = pid(&mut receiver).await;
        assert_ne!(child, last_pid);
        last_pid = child;
        sender.send("echo").await.unwrap();
        assert_eq!(message(&mut receiver).await, "echo");
        kill(child);
        let reset = reset(&mut receiver).await;
        assert_eq!((reset.epoch, reset.lost), (epoch, 0));
        let exit = reset.cause.child_exit().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&exit.status), Some(9));
        wait::until_reaped(child);
    }
    // The counters cover all lines.
    let info = control.info();
    assert_eq!((info.messages_out, info.messages_in, info.bytes_out), (3, 6, 15));
}

#[test]
fn immediate_reconnect_needs_no_timer() {
    // This runtime has no timer.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let local = LinkOptions::recovering(Recovery::Reconnect(BackoffConfig::LOCAL));
        let (link, far, _world, _far_ends) = link([], local).await;
        let (_sender, mut receiver) = link.split();
        let (mut far_sender, far_receiver) = far.split();
        far_sender.send("a message").await.unwrap();
        drop((far_sender, far_receiver));
        assert!(matches!(receiver.recv().await, Incoming::Message(_)));
        assert!(matches!(receiver.recv().await, Incoming::Reset(_)));
    });
}

#[tokio::test]
async fn restart_policy_decides_after_which_exits_a_child_is_restarted() {
    for (policy, script, restarts) in [
        (RestartPolicy::Never, "exit 3", false),
        (RestartPolicy::OnFailure, "exit 0", false),
        (RestartPolicy::OnFailure, "exit 3", true),
        (RestartPolicy::Always, "exit 0", true),
    ] {
        let link = Link::connect(shell(script), restart(policy)).await.unwrap();
        let (_sender, mut receiver) = link.split();
        match within("the restart or the end", receiver.recv()).await {
            Incoming::Reset(_) => assert!(restarts, "{policy}, {script}"),
            Incoming::End(reason) => {
                assert!(!restarts, "{policy}, {script}: {reason}");
                assert_eq!(reason.is_clean(), script == "exit 0");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn child_that_fails_too_often_is_given_up_with_its_status_and_stderr() {
    let script = "echo begun; echo 'no such table' >&2; exit 4";
    let link = Link::connect(shell(script), restart(RestartPolicy::OnFailure)).await.unwrap();
    let mut states = link.states();
    let (mut sender, mut receiver) = link.split();
    for epoch in 1..=6 {
        if epoch > 1 {
            assert_eq!(reset(&mut receiver).await.epoch, epoch);
        }
        assert_eq!(message(&mut receiver).await, "begun");
    }
    let reason = end(&mut receiver).await;
    let CloseReason::GivenUp(given_up) = &reason else { panic!("{reason:?}") };
    assert_eq!(given_up.restarts, 5);
    let exit = reason.child_exit().unwrap();
    assert_eq!(exit.status.code(), Some(4));
    assert_eq!(exit.stderr_tail, "no such table\n");
    assert!(reason.to_string().contains("no such table") && reason.hint().is_some());
    let (by_us, reported) = last(&mut states).await;
    assert!(!by_us && matches!(reported, CloseReason::GivenUp(_)), "{reported:?}");
    let late = sender.send("late").await.unwrap_err();
    assert!(matches!(late.close_reason(), Some(CloseReason::GivenUp(_))), "{late:?}");
    // The end is returned again.
    end(&mut receiver).await;
}

#[tokio::test(start_paused = true)]
async fn server_is_reconnected_without_limit_after_growing_waits() {
    let refusals = (0..9).map(|_| Step::Fail(ErrorKind::Refused));
    let script = [Step::Line].into_iter().chain(refusals);
    let options = LinkOptions::recovering(Recovery::Reconnect(BackoffConfig::LOCAL));
    let (link, far, _world, mut far_ends) = link(script, options).await;
    let mut states = link.states();
    let (_sender, mut receiver) = link.split();
    let begun = Instant::now();
    drop(far);
    let watching = tokio::spawn(async move {
        let mut waits = Vec::new();
        loop {
            match states.next().await.unwrap() {
                LineState::Backoff { until, .. } => {
                    waits.push(until.duration_since(Instant::now()))
                }
                LineState::Connected { epoch: 2 } => return waits,
                _ => {}
            }
        }
    });
    assert_eq!(reset(&mut receiver).await.epoch, 2);
    let waits = within("the states", watching).await.unwrap();
    // A local endpoint is tried again at once, without a published wait, then after 50 ms, and then
    // after ever longer waits.
    assert_eq!(waits.len(), 9, "{waits:?}");
    assert!(waits[0] >= Duration::from_millis(39) && waits[8] > waits[4], "{waits:?}");
    assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
    within("the far end", far_ends.recv()).await.unwrap();
}

#[tokio::test]
async fn permanent_error_is_not_retried() {
    let permanent = ErrorKind::CommandNotFound { searched: vec!["/nowhere".into()] };
    let script = [Step::Line, Step::Fail(permanent), Step::Line];
    let (link, far, _world, _far_ends) = link(script, LinkOptions::default()).await;
    let mut states = link.states();
    let (_sender, mut receiver) = link.split();
    drop(far);
    let reason = end(&mut receiver).await;
    let CloseReason::Unreachable(error) = &reason else { panic!("{reason:?}") };
    assert!(matches!(error.kind(), ErrorKind::CommandNotFound { .. }), "{error}");
    assert!(reason.to_string().contains("/nowhere") && reason.hint().is_some());
    assert!(!last(&mut states).await.0);
}

#[tokio::test]
async fn failed_first_connection_is_an_error() {
    let (world, _far_ends) = support::World::new([Step::Fail(ErrorKind::Refused)]);
    let error = Link::connect(world, LinkOptions::default()).await.map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Refused), "{error}");
}

#[tokio::test]
async fn late_observers_get_the_current_state_and_all_get_the_last_one() {
    let script = [Step::Line, Step::Wait];
    let (link, far, world, _far_ends) = link(script, LinkOptions::default()).await;
    let mut early = link.states();
    assert!(matches!(early.next().await, Some(LineState::Connected { epoch: 1 })));
    let (sender, mut receiver) = link.split();
    drop(far);
    let receiving = tokio::spawn(async move {
        let reset = reset(&mut receiver).await;
        (receiver, reset)
    });
    world.waits(1).await;
    let mut late = early.clone();
    assert!(matches!(late.next().await, Some(LineState::Connecting { attempt: 1 })));
    world.go_on();
    let (receiver, _) = within("the new line", receiving).await.unwrap();
    state(&mut early, LineState::is_connected).await;
    let mut later = late.clone();
    assert!(matches!(later.next().await, Some(LineState::Connected { epoch: 2 })));
    drop((sender, receiver));
    let mut last_of_all = late.clone();
    for mut states in [early, late, later, last_of_all.clone()] {
        assert!(last(&mut states).await.0);
    }
    // After the end there are no more states, but the last one is still available.
    assert!(last_of_all.next().await.unwrap().is_closed());
    assert!(last_of_all.next().await.is_none());
    assert!(last_of_all.present().is_closed());
}

#[tokio::test]
async fn end_by_us_is_distinct_from_a_failure() {
    let script = "read line; exit 3";
    for by_us in [true, false] {
        let link = Link::connect(shell(script), restart(RestartPolicy::Never)).await.unwrap();
        let (mut states, control) = (link.states(), link.control().clone());
        let (mut sender, mut receiver) = link.split();
        if by_us {
            sender.close().await.unwrap();
            control.stop().await;
        } else {
            sender.send("go").await.unwrap();
        }
        let reason = drain(&mut receiver).await;
        assert_eq!(reason.child_exit().unwrap().status.code(), Some(3));
        let present = states.present();
        assert_eq!(present.is_failure(), !by_us);
        let (reported_by_us, reason) = last(&mut states).await;
        assert_eq!(reported_by_us, by_us);
        assert_eq!(reason.child_exit().unwrap().status.code(), Some(3));
    }
}

#[tokio::test]
async fn child_that_closes_its_stdout_and_keeps_running_is_ended_and_replaced() {
    // The first child exits when its input ends; only the second one answers.
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    let script = format!(
        "echo $$; if test -e {0}; then exec cat; fi; touch {0}; exec >&-; read line; exit 0",
        mark.display()
    );
    let link = Link::connect(shell(&script), LinkOptions::default()).await.unwrap();
    let (mut sender, mut receiver) = link.split();
    let first = pid(&mut receiver).await;
    let reset = reset(&mut receiver).await;
    assert!(matches!(reset.cause, CloseReason::StdoutClosed), "{}", reset.cause);
    wait::until_reaped(first);
    pid(&mut receiver).await;
    sender.send("hello").await.unwrap();
    assert_eq!(message(&mut receiver).await, "hello");
}

#[tokio::test]
async fn child_that_closes_its_stdin_and_keeps_running_is_stopped_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    let script = format!(
        "if test -e {0}; then exec cat; fi; touch {0}; exec <&-; echo closed; exec sleep 10000",
        mark.display()
    );
    let link = Link::connect(shell(&script), LinkOptions::default()).await.unwrap();
    let (mut sender, mut receiver) = link.split();
    assert_eq!(message(&mut receiver).await, "closed");
    let receiving = tokio::spawn(async move {
        let reset = reset(&mut receiver).await;
        (receiver, reset)
    });
    // One of the sends finds the pipe broken; the next one waits for the new child.
    let mut reported = 0;
    for _ in 0..2 {
        match within("a send", sender.send("hello?")).await {
            Ok(()) => {}
            Err(tieline_transport::SendError::Lost(lost)) => reported += lost,
            Err(other) => panic!("{other:?}"),
        }
    }
    let (mut receiver, reset) = within("the new child", receiving).await.unwrap();
    assert_eq!((reported, reset.lost), (1, 1));
    assert_eq!(message(&mut receiver).await, "hello?");
}
