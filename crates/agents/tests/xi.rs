//! The real xi-core: open, edit, save, and what it tells meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::time::Duration;

use tieline_agents::xi::{Event, Events, Xi};
use tieline_transport::{CloseReason, Endpoint, Options, Registry};
use tokio::task::JoinHandle;

async fn start() -> (Xi, Events, JoinHandle<CloseReason>) {
    let core = std::env::var_os("TIELINE_XI_CORE");
    let core = core.expect("xi-core is not here; run the tests by `cargo xtask test --install`");
    let endpoint = Endpoint::exec(core, [""; 0]);
    let channel = Registry::new().connect(&endpoint, &Options::default()).await.unwrap();
    let (xi, events, driver) = Xi::start(channel).await.unwrap();
    (xi, events, tokio::spawn(driver))
}

/// What does not come in half a minute does not come.
async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it did not come")
}

#[tokio::test]
async fn a_file_is_opened_edited_saved_and_read_back() {
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
            match events.next().await.expect("the core tells of the cursor") {
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
async fn a_save_that_fails_is_an_alert() {
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
async fn events_that_nobody_takes_do_not_stop_the_answers() {
    let (xi, events, _driver) = start().await;
    drop(events);
    let view = within(xi.new_view()).await.unwrap();
    for n in 0..500 {
        view.insert(&format!("{n}\n")).await.unwrap();
    }
    let text = within(view.contents()).await.unwrap();
    assert_eq!(text.lines().count(), 500);
}
