//! Opens, edits and saves a file in the real xi-core, and receives its notifications.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::time::Duration;

use tieline_link::{LineState, Link, LinkOptions};
use tieline_rpc::{CallError, NotSent};
use tieline_transport::{CloseReason, Endpoint, Options, Registry};
use tokio::task::JoinHandle;
use xi::{Event, Events, Xi};

#[path = "../examples/xi/xi.rs"]
#[allow(dead_code)]
mod xi;

async fn start() -> (Xi, Events, JoinHandle<CloseReason>) {
    let core = std::env::var_os("TIELINE_XI_CORE");
    let core = core.expect("xi-core is missing: run the tests with `cargo xtask test --install`");
    let endpoint = Endpoint::exec(core, [""; 0]);
    let channel = Registry::new().connect(&endpoint, &Options::default()).await.unwrap();
    let (xi, events, driver) = Xi::start(channel).await.unwrap();
    (xi, events, tokio::spawn(driver))
}

/// Waits for the future, and fails after half a minute.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("timed out after 30 seconds")
}

#[tokio::test]
async fn file_is_opened_edited_saved_and_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "second\n").unwrap();
    let (xi, mut events, driver) = start().await;
    let view = within(xi.open(&path)).await.unwrap();
    view.insert("first\n").await.unwrap();
    assert_eq!(within(view.contents()).await.unwrap(), "first\nsecond\n");
    within(view.save(&path)).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\nsecond\n");

    let scrolled = within(async {
        loop {
            match events.next().await.expect("the core reports the cursor") {
                Event::ScrollTo { view_id, line: 1, col: 0 } => return view_id,
                _ => continue,
            }
        }
    });
    assert_eq!(scrolled.await, view.id());
    let reason = within(xi.peer().close()).await;
    assert!(reason.is_clean(), "{reason}");
    within(driver).await.unwrap();
    while within(events.next()).await.is_some() {}
}

#[tokio::test]
async fn failed_save_is_an_alert() {
    let (xi, mut events, _driver) = start().await;
    let view = within(xi.new_view()).await.unwrap();
    view.insert("lost").await.unwrap();
    within(view.save("/no/such/directory/file")).await.unwrap();
    loop {
        match within(events.next()).await.expect("an alert") {
            Event::Alert(text) => break assert!(!text.is_empty()),
            _ => continue,
        }
    }
}

#[tokio::test]
async fn unread_events_do_not_block_responses() {
    let (xi, events, _driver) = start().await;
    drop(events);
    let view = within(xi.new_view()).await.unwrap();
    for n in 0..500 {
        view.insert(&format!("{n}\n")).await.unwrap();
    }
    let text = within(view.contents()).await.unwrap();
    assert_eq!(text.lines().count(), 500);
}

fn pid_of_child() -> u32 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let children = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
    };
    let children: String = tasks.map(children).collect();
    children.split_whitespace().next().expect("a child").parse().unwrap()
}

/// The test runs in its own process, so that the core is the only child.
#[test]
fn killed_core_is_replaced_and_editing_continues() {
    let mut helper = tieline_testkit::helper::plain(tieline_testkit::test_name!(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(edited_across_kills());
    });
    tieline_testkit::helper::succeeds(&mut helper);
}

async fn edited_across_kills() {
    let core = std::env::var_os("TIELINE_XI_CORE");
    let core = core.expect("xi-core is missing: run the tests with `cargo xtask test --install`");
    let endpoint = Endpoint::exec(core, [""; 0]);
    let connector = Registry::new().connector(&endpoint, &Options::default()).unwrap();
    let link = Link::connect(connector.into(), LinkOptions::default()).await.unwrap();
    let mut states = link.states();
    let (xi, mut events, driver) = Xi::start(link).await.unwrap();
    let driver = tokio::spawn(driver);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "").unwrap();
    let mut expected = String::new();
    for round in 1..4 {
        let view = within(xi.open(&path)).await.unwrap();
        let line = format!("line {round}\n");
        view.insert(&line).await.unwrap();
        within(view.save(&path)).await.unwrap();
        expected.insert_str(0, &line);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        // A stopped core does not respond, so the call is in flight when the core is killed.
        let pid = rustix::process::Pid::from_raw(pid_of_child() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let asked = {
            let view = view.clone();
            tokio::spawn(async move { view.contents().await })
        };
        let sent = xi.peer().control().info().messages_out;
        while xi.peer().control().info().messages_out == sent {
            tokio::task::yield_now().await;
        }
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let error = within(asked).await.unwrap().unwrap_err();
        let CallError::Unknown(reason) = &error else { panic!("{error:?}") };
        assert!(reason.child_exit().is_some(), "{reason}");
        let restarted = within(async {
            loop {
                match events.next().await.expect("the core is restarted") {
                    Event::Restarted { epoch } => return epoch,
                    _ => continue,
                }
            }
        });
        assert_eq!(restarted.await, round + 1);
        let present = states.wait_for(LineState::is_connected).await.unwrap();
        assert!(
            matches!(present, LineState::Connected { epoch } if epoch == round + 1),
            "{present}"
        );
        // The new core does not know the old view.
        let late = view.insert("late").await.unwrap_err();
        assert!(matches!(late, NotSent::Reset(_)), "{late:?}");
    }
    assert_eq!(within(within(xi.open(&path)).await.unwrap().contents()).await.unwrap(), expected);
    let reason = within(xi.peer().close()).await;
    assert!(reason.is_clean(), "{reason}");
    within(driver).await.unwrap();
    while let Some(state) = within(states.next()).await {
        if let LineState::Closed { by_us, .. } = state {
            assert!(by_us);
        }
    }
}

#[tokio::test]
async fn core_that_cannot_start_is_given_up_with_its_exit_status() {
    let script = "echo 'no library' >&2; exit 127";
    let endpoint = Endpoint::exec("sh", ["-c", script]);
    let connector = Registry::new().connector(&endpoint, &Options::default()).unwrap();
    let link = Link::connect(connector.into(), LinkOptions::default()).await.unwrap();
    let mut states = link.states();
    let (xi, _events, driver) = Xi::start(link).await.unwrap();
    let driver = tokio::spawn(driver);
    let error = within(async {
        loop {
            match xi.new_view().await.unwrap_err() {
                CallError::Unknown(_) | CallError::NotSent(NotSent::Reset(_)) => {}
                other => return other,
            }
        }
    });
    error.await;
    let reason = within(driver).await.unwrap();
    assert!(matches!(reason, CloseReason::GivenUp(_)), "{reason}");
    let exit = reason.child_exit().unwrap();
    assert_eq!((exit.status.code(), &*exit.stderr_tail), (Some(127), &b"no library\n"[..]));
    let closed = within(states.wait_for(LineState::is_closed)).await.unwrap();
    assert!(closed.is_failure(), "{closed}");
}
