//! Ending a child: gracefully in stages, or at once by dropping the line.

use tieline_testkit::wait::block_on;
use tieline_transport::{Connection, ConnectionExt, SenderExt};
use tokio::runtime::Runtime;

use super::*;

/// No stage may be skipped. Therefore, the stages before the one that works have no time, and that stage
/// has unlimited time.
#[test]
fn child_is_stopped_by_the_first_stage_that_works() {
    let end_of_input = StopTimeouts { end_of_input: LONG, ..PATIENT };
    let terminate = StopTimeouts { end_of_input: Duration::ZERO, ..PATIENT };
    let kill = StopTimeouts { terminate: Duration::from_millis(20), ..terminate };
    // A shell handles a signal between two commands, and prints a message for children that are killed.
    let endless = "exec 2>/dev/null; while :; do sleep 0.02; done";
    for (script, stop, expected) in [
        ("echo ready; cat; exit 6", end_of_input, Exit::code(6, "")),
        (&format!("trap 'exit 7' TERM; echo ready; {endless}"), terminate, Exit::code(7, "")),
        (&format!("echo ready; {endless}"), terminate, Exit::signal(15)),
        (&format!("trap '' TERM; echo ready; {endless}"), kill, Exit::signal(9)),
    ] {
        block_on(async {
            let config = ProcessConfig { stop, ..shell(script) };
            let (mut sender, mut receiver, control) = lines(&config).await;
            assert_eq!(message(receiver.recv().await), "ready");
            sender.close().await.unwrap();
            let reason = control.stop().await;
            assert_eq!(Exit::from(exit(reason.clone())), expected, "{script}");
            assert_eq!(control.close_reason().unwrap().to_string(), reason.to_string());
            assert_eq!(end(receiver.recv().await).to_string(), reason.to_string());
        });
    }
}

#[test]
fn closing_a_connection_goes_through_the_same_stages() {
    block_on(async {
        let config = ProcessConfig { stop: PATIENT, ..shell("cat; echo bye >&2; exit 9") };
        let connection = launch(&config).await.unwrap();
        let control = connection.control().clone();
        let reason = connection.close().await;
        assert_eq!(Exit::from(exit(reason.clone())), Exit::code(9, "bye\n"));
        assert_eq!(control.close_reason().unwrap().to_string(), reason.to_string());
    });
}

#[test]
fn output_is_drained_when_a_connection_is_closed() {
    block_on(async {
        // The child cannot exit before 10 MB have been read.
        let script = "cat; head -c 10000000 /dev/zero; exit 8";
        let config = ProcessConfig { stop: PATIENT, ..shell(script) };
        let reason = launch(&config).await.unwrap().close().await;
        assert_eq!(Exit::from(exit(reason)), Exit::code(8, ""));
    });
}

#[test]
fn dropped_stop_leaves_the_rest_to_the_drop_of_the_line() {
    block_on(async {
        let (mut sender, receiver, control, pids) = stubborn().await;
        sender.close().await.unwrap();
        assert!(wait::poll_once(control.stop()).await.is_none());
        assert!(wait::is_running(pids[0]));
        drop((sender, receiver));
        tokio::task::spawn_blocking(move || assert_gone(pids)).await.unwrap();
    });
}

#[test]
fn stopping_ends_the_whole_group() {
    block_on(async {
        let stop = StopTimeouts { end_of_input: Duration::ZERO, ..StopTimeouts::default() };
        let script = "(trap '' TERM; exec sleep 10000) & echo $!; exec sleep 10000";
        let (mut sender, mut receiver, control) =
            lines(&ProcessConfig { stop, ..shell(script) }).await;
        let stubborn = pid(&mut receiver).await;
        sender.close().await.unwrap();
        assert_eq!(Exit::from(exit(control.stop().await)), Exit::signal(15));
        wait::until_ended(stubborn);
    });
}

/// A child that ignores every signal except SIGKILL and has a child that does the same.
const STUBBORN: &str =
    "trap '' TERM HUP INT; sleep 10000 & echo $$; echo $!; while :; do sleep 10000; done";

async fn stubborn() -> (Sender, Recv, Control, [u32; 2]) {
    let (sender, mut receiver, control) =
        lines(&ProcessConfig { stop: PATIENT, ..shell(STUBBORN) }).await;
    let pids = [pid(&mut receiver).await, pid(&mut receiver).await];
    (sender, receiver, control, pids)
}

#[track_caller]
fn assert_gone([child, grandchild]: [u32; 2]) {
    wait::until_reaped(child);
    // The grandchild is reaped by the process that adopted it.
    wait::until_ended(grandchild);
}

#[test]
fn dropping_the_line_kills_the_group_at_once_and_leaves_no_zombie() {
    block_on(async {
        let (sender, receiver, control, pids) = stubborn().await;
        drop(sender);
        assert!(wait::is_running(pids[0]), "one half keeps the line alive");
        drop(receiver);
        assert!(matches!(control.close_reason(), Some(CloseReason::ByUs)), "{control:?}");
        tokio::task::spawn_blocking(move || assert_gone(pids)).await.unwrap();
    });
}

#[test]
fn dropping_the_line_works_without_a_runtime() {
    for is_idle in [false, true] {
        let runtime = Runtime::new().unwrap();
        let (sender, receiver, _control, pids) = runtime.block_on(stubborn());
        match is_idle {
            // The runtime exists but does not run.
            true => {
                drop((sender, receiver));
                assert_gone(pids);
            }
            // The runtime no longer exists.
            false => {
                drop(runtime);
                drop((sender, receiver));
                assert_gone(pids);
            }
        }
    }
}

#[test]
fn runtime_shutdown_ends_lines_owned_by_its_tasks() {
    let runtime = Runtime::new().unwrap();
    let (sender, mut receiver, _control, pids) = runtime.block_on(stubborn());
    runtime.spawn(async move {
        let _sender = sender;
        receiver.recv().await
    });
    runtime.shutdown_background();
    assert_gone(pids);
}

#[test]
fn dropped_connect_leaves_no_child() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let cwd = Some(directory.path().to_owned());
    let config = ProcessConfig { cwd, ..shell("exec sleep 10000") };
    for _ in 0..50 {
        // Some attempts are so fast that they connect.
        runtime.block_on(async { drop(wait::poll_once(launch(&config)).await) });
    }
    // The library starts children one after another, so none is started after this one.
    drop(runtime.block_on(launch(&shell("cat"))).unwrap());
    let is_one_of_them = |entry: std::fs::DirEntry| {
        let cwd = std::fs::read_link(entry.path().join("cwd"));
        cwd.is_ok_and(|cwd| cwd == directory.path())
    };
    wait::until("the end of all started children", || {
        !std::fs::read_dir("/proc").unwrap().flatten().any(is_one_of_them)
    });
}

#[test]
fn aborting_ends_the_child_while_both_halves_are_held() {
    block_on(async {
        let (_sender, mut receiver, control, pids) = stubborn().await;
        control.abort();
        assert!(matches!(end(receiver.recv().await), CloseReason::ByUs));
        tokio::task::spawn_blocking(move || assert_gone(pids)).await.unwrap();
    });
}
