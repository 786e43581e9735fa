//! Clients that connect and disconnect many times.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{
    Step, World, drain, end, kill, message, pid, poll_once, reset, shell, state, within,
};
use tieline_link::{Client, ClientOptions, LineState, LinkOptions, Recovery};
use tieline_proto::RestartPolicy;
use tieline_testkit::{helper, test_name, wait};
use tieline_transport::{
    Channel, CloseReason, DynConnector, Endpoint, ErrorKind, Options, ReceiverExt, Registry,
    TransportError,
};

fn client(connector: Arc<dyn DynConnector>) -> Client {
    Client::over(connector, Endpoint::memory("world"), ClientOptions::default())
}

fn never(connector: Arc<dyn DynConnector>) -> Client {
    let link = LinkOptions::recovering(Recovery::Restart(RestartPolicy::Never));
    let options = ClientOptions { link, ..ClientOptions::default() };
    Client::over(connector, Endpoint::memory("world"), options)
}

fn assert_kind(error: &TransportError, is_it: impl Fn(&ErrorKind) -> bool) {
    assert!(is_it(error.kind()) && error.hint().is_some(), "{error:?}");
    assert!(error.endpoint().is_some(), "{error:?}");
}

const ECHO: &str = "echo $$; exec cat";

#[tokio::test]
async fn client_connects_and_disconnects_repeatedly() {
    let client = client(shell(ECHO));
    let mut states = client.states();
    assert!(matches!(states.next().await, Some(LineState::Idle)));
    for _ in 0..3 {
        let mut messages = client.connect().await.unwrap();
        assert!(client.state().is_connected());
        let child = pid(&mut messages).await;
        client.send("hello").await.unwrap();
        assert_eq!(message(&mut messages).await, "hello");
        let reason = within("the end", client.disconnect()).await.unwrap();
        assert!(reason.is_clean(), "{reason}");
        assert_eq!(reason.child_exit().unwrap().status.code(), Some(0));
        let closed = state(&mut states, LineState::is_closed).await;
        assert!(matches!(closed, LineState::Closed { by_us: true, .. }), "{closed}");
        end(&mut messages).await;
        wait::until_reaped(child);
    }
    drop(client);
    assert!(within("the last state", states.next()).await.is_none());
}

#[tokio::test]
async fn operations_without_a_connection_fail_as_not_connected() {
    let client = client(shell(ECHO));
    let not_connected = |error: TransportError| {
        assert_kind(&error, |kind| matches!(kind, ErrorKind::NotConnected));
        assert!(!error.is_retryable());
    };
    not_connected(client.send("x").await.unwrap_err());
    not_connected(client.disconnect().await.unwrap_err());
    let messages = client.connect().await.unwrap();
    let again = client.connect().await.map(drop).unwrap_err();
    assert_kind(&again, |kind| matches!(kind, ErrorKind::AlreadyConnected));
    // The existing connection still works.
    client.send("x").await.unwrap();
    client.disconnect().await.unwrap();
    not_connected(client.send("x").await.unwrap_err());
    not_connected(client.disconnect().await.unwrap_err());
    drop(messages);
}

#[tokio::test]
async fn second_connect_fails_during_an_attempt_and_disconnect_cancels_it() {
    let (world, mut far_ends) = World::new([Step::Wait]);
    let client = Arc::new(client(world.clone()));
    let connecting = {
        let client = client.clone();
        tokio::spawn(async move { client.connect().await.map(drop) })
    };
    world.waits(1).await;
    assert!(matches!(client.state(), LineState::Connecting { attempt: 1 }));
    let again = client.connect().await.map(drop).unwrap_err();
    assert_kind(&again, |kind| matches!(kind, ErrorKind::AlreadyConnected));
    assert!(matches!(client.disconnect().await.unwrap(), CloseReason::ByUs));
    let given_up = within("the attempt's end", connecting).await.unwrap().unwrap_err();
    assert!(matches!(given_up.kind(), ErrorKind::Closed(CloseReason::ByUs)), "{given_up:?}");
    world.waits(0).await;
    assert!(matches!(client.state(), LineState::Closed { by_us: true, .. }));
    let _messages = client.connect().await.unwrap();
    assert!(client.state().is_connected());
    within("the far end", far_ends.recv()).await.unwrap();
}

#[tokio::test]
async fn client_can_connect_after_a_dropped_attempt() {
    let (world, _far_ends) = World::new([Step::Wait]);
    let client = client(world.clone());
    assert!(poll_once(client.connect()).await.is_none());
    world.waits(0).await;
    assert!(matches!(client.state(), LineState::Closed { by_us: true, .. }), "{}", client.state());
    client.connect().await.unwrap();
}

#[tokio::test]
async fn failed_attempt_reports_the_cause_and_can_be_repeated() {
    let (world, _far_ends) = World::new([Step::Fail(ErrorKind::Refused)]);
    let client = client(world);
    let error = client.connect().await.map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Refused), "{error:?}");
    let state = client.state();
    let LineState::Closed { by_us: false, reason } = &state else { panic!("{state}") };
    assert!(state.is_failure() && matches!(reason, CloseReason::Unreachable(_)));
    client.connect().await.unwrap();
}

#[tokio::test]
async fn each_launch_failure_has_its_own_error() {
    let client = |endpoint: &str| {
        let endpoint: Endpoint = endpoint.parse().unwrap();
        Client::new(&Registry::new(), &endpoint, &Options::default(), ClientOptions::default())
    };
    let missing = client("exec:no-such-program-here").unwrap();
    let error = missing.connect().await.map(drop).unwrap_err();
    let ErrorKind::CommandNotFound { searched } = error.kind() else { panic!("{error:?}") };
    assert!(!searched.is_empty() && error.to_string().contains("no-such-program-here"));
    let error = client("exec:/etc/passwd").unwrap().connect().await.map(drop).unwrap_err();
    assert_kind(&error, |kind| matches!(kind, ErrorKind::NotExecutable(_)));
    if cfg!(not(windows)) {
        let error = client("pipe:agent").unwrap_err();
        assert_kind(&error, |kind| matches!(kind, ErrorKind::UnsupportedPlatform));
    }
}

#[tokio::test]
async fn child_exit_is_reported_as_not_by_us() {
    let client = never(shell("echo $$; echo sorry >&2; read line; exit 7"));
    let mut states = client.states();
    let mut messages = client.connect().await.unwrap();
    pid(&mut messages).await;
    client.send("go").await.unwrap();
    end(&mut messages).await;
    let closed = state(&mut states, LineState::is_closed).await;
    let LineState::Closed { by_us: false, reason } = &closed else { panic!("{closed}") };
    let exit = reason.child_exit().unwrap();
    assert_eq!((exit.status.code(), &*exit.stderr_tail), (Some(7), &b"sorry\n"[..]));
    assert!(closed.is_failure());
    let error = client.send("late").await.unwrap_err();
    assert_kind(&error, |kind| matches!(kind, ErrorKind::NotConnected));
    pid(&mut client.connect().await.unwrap()).await;
}

#[tokio::test]
async fn client_recovers_from_a_killed_child() {
    let client = client(shell(ECHO));
    let mut messages = client.connect().await.unwrap();
    let child = pid(&mut messages).await;
    kill(child);
    assert_eq!(reset(&mut messages).await.epoch, 2);
    pid(&mut messages).await;
    client.send("again").await.unwrap();
    assert_eq!(message(&mut messages).await, "again");
    assert_eq!(client.control().unwrap().info().messages_out, 1);
}

#[test]
fn dropped_client_releases_everything_at_once() {
    alone(test_name!(), dropped);
}

async fn dropped() {
    let client = client(shell(ECHO));
    let mut states = client.states();
    let mut messages = client.connect().await.unwrap();
    let child = pid(&mut messages).await;
    let before = descriptors();
    drop(client);
    wait::until_reaped(child);
    // The descriptor that `messages` was reading from is closed as well.
    assert!(descriptors() < before, "{} of {before}", descriptors());
    assert!(matches!(drain(&mut messages).await, CloseReason::ByUs));
    let closed = state(&mut states, LineState::is_closed).await;
    assert!(matches!(closed, LineState::Closed { by_us: true, .. }), "{closed}");
    assert!(within("the last state", states.next()).await.is_none());
}

#[tokio::test]
async fn dropping_a_client_during_an_outage_ends_its_messages() {
    let (world, mut far_ends) = World::new([Step::Line, Step::Wait]);
    let client = client(world.clone());
    let mut messages = client.connect().await.unwrap();
    drop(far_ends.recv().await.unwrap());
    let receiving = tokio::spawn(async move { end(&mut messages).await });
    world.waits(1).await;
    drop(client);
    assert!(matches!(within("the end", receiving).await.unwrap(), CloseReason::ByUs));
    world.waits(0).await;
}

#[tokio::test(start_paused = true)]
async fn send_without_a_line_times_out() {
    let (world, mut far_ends) = World::new([Step::Line, Step::Wait]);
    let options = ClientOptions { send_timeout: Duration::from_secs(9), ..Default::default() };
    let client = Client::over(world.clone(), Endpoint::memory("world"), options);
    let mut messages = client.connect().await.unwrap();
    drop(far_ends.recv().await.unwrap());
    let receiving = tokio::spawn(async move {
        reset(&mut messages).await;
        messages
    });
    world.waits(1).await;
    let error = client.send("unsent").await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::TimedOut(limit) if limit.as_secs() == 9),
        "{error:?}"
    );
    world.go_on();
    let _messages = receiving.await.unwrap();
    client.send("now").await.unwrap();
    let (_their_sender, mut far) = far_ends.recv().await.unwrap().split();
    assert_eq!(message(&mut far).await, "now");
}

#[tokio::test]
async fn loss_of_another_message_is_not_reported_to_the_next_send() {
    let (world, mut far_ends) = World::new([]);
    let client = client(world);
    let mut messages = client.connect().await.unwrap();
    let far = far_ends.recv().await.unwrap();
    // This call is cancelled before the loss can be reported to it.
    assert!(poll_once(client.send(vec![b'x'; 1 << 20])).await.is_none());
    drop(far);
    assert_eq!(reset(&mut messages).await.lost, 1);
    client.send("mine").await.unwrap();
    let (_their_sender, mut far) = far_ends.recv().await.unwrap().split();
    assert_eq!(message(&mut far).await, "mine");
}

#[tokio::test]
async fn states_end_with_the_client_even_if_messages_are_held() {
    let (world, mut far_ends) = World::new([]);
    let client = never(world);
    let mut states = client.states();
    let mut messages = client.connect().await.unwrap();
    drop(far_ends.recv().await.unwrap());
    end(&mut messages).await;
    state(&mut states, LineState::is_closed).await;
    drop(client);
    assert!(within("the last state", states.next()).await.is_none());
    drop(messages);
}

#[tokio::test]
async fn disconnecting_from_a_server_ends_its_messages() {
    let (world, mut far_ends) = World::new([]);
    let client = client(world);
    let mut messages = client.connect().await.unwrap();
    // This far end never ends by itself.
    let far = far_ends.recv().await.unwrap();
    client.disconnect().await.unwrap();
    assert!(matches!(end(&mut messages).await, CloseReason::ByUs));
    let (_their_sender, mut far) = far.split();
    end(&mut far).await;
    assert!(poll_once(far_ends.recv()).await.is_none());
}

#[tokio::test]
async fn disconnecting_releases_senders_to_a_server_that_does_not_read() {
    let (world, mut far_ends) = World::new([]);
    let client = Arc::new(client(world));
    let _messages = client.connect().await.unwrap();
    let _far = far_ends.recv().await.unwrap();
    let mut senders = Vec::new();
    for _ in 0..3 {
        let client = client.clone();
        senders.push(tokio::spawn(async move { client.send(vec![b'x'; 1 << 20]).await }));
    }
    tokio::task::yield_now().await;
    assert!(senders.iter().all(|sender| !sender.is_finished()));
    within("the end", client.disconnect()).await.unwrap();
    for sender in senders {
        let error = within("the release", sender).await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Closed(CloseReason::ByUs)), "{error:?}");
    }
    client.connect().await.unwrap();
}

/// Runs a test in its own process, as descriptors and children are counted per process.
fn alone<F: Future<Output = ()>>(test: String, body: impl FnOnce() -> F) {
    let mut helper = helper::plain(test, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    });
    helper::succeeds(&mut helper);
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let children = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
    };
    tasks.map(children).collect()
}

#[test]
fn thousand_connections_leave_no_children_descriptors_or_tasks() {
    alone(test_name!(), rounds);
}

async fn rounds() {
    let client = client(shell(ECHO));
    // The first connection creates permanent resources, such as the thread that starts children.
    drop(client.connect().await.unwrap());
    client.disconnect().await.unwrap();
    wait::until("the end of all children", || children().is_empty());
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = (descriptors(), tasks());
    for round in 0..1000 {
        let mut messages = client.connect().await.unwrap();
        // End the connection in every possible way.
        match round % 4 {
            0 => drop(messages),
            1 => drop(message(&mut messages).await),
            2 => client.control().unwrap().abort(),
            _ => drop(poll_once(messages.recv()).await),
        }
        match client.disconnect().await {
            Ok(_) => {}
            Err(error) => assert_kind(&error, |kind| matches!(kind, ErrorKind::NotConnected)),
        }
    }
    wait::until("the end of all children", || children().is_empty());
    while (descriptors(), tasks()) > before {
        tokio::task::yield_now().await;
    }
    assert_eq!((descriptors(), tasks()), before);
}
