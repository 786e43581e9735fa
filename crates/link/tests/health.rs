//! Health monitors: whether the peer is alive, whether the line may be used, and how long operations take.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use support::{message, poll_once, within};
use tieline_link::HealthMonitor;
use tieline_proto::{HeartbeatConfig, HeartbeatEvent};
use tieline_transport::{Channel, SenderExt, memory_pair};
use tokio::time::{Instant, sleep};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn pinging(control: &tieline_transport::Control) -> HealthMonitor {
    HealthMonitor::pinging(control.clone(), HeartbeatConfig::default())
}

/// Returns the next heartbeat event, and when it was due, in seconds since `begun`.
async fn beat(monitor: &HealthMonitor, begun: Instant) -> (u64, HeartbeatEvent) {
    let beat = within("a beat", monitor.next_beat()).await;
    (begun.elapsed().as_secs(), beat)
}

#[test]
fn draining_line_is_live_but_not_ready() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (ours, _theirs) = runtime.block_on(async { memory_pair() });
    let monitor = HealthMonitor::new(ours.control().clone());
    let flags = || {
        let report = monitor.report();
        (report.live, report.ready, report.draining)
    };
    assert_eq!(flags(), (true, false, false));
    monitor.set_ready(true);
    assert_eq!(flags(), (true, true, false));
    monitor.set_ready(false);
    assert_eq!(flags(), (true, false, false));
    monitor.set_ready(true);
    monitor.drain();
    assert_eq!(flags(), (true, false, true));
    monitor.set_ready(true);
    assert_eq!(flags(), (true, false, true));
    drop(ours);
    assert_eq!(flags(), (false, false, false));
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_down_after_25_seconds_and_up_after_two_responses() {
    let (ours, _theirs) = memory_pair();
    let (monitor, begun) = (pinging(ours.control()), Instant::now());
    monitor.set_ready(true);
    for expected in
        [(10, HeartbeatEvent::Ping), (20, HeartbeatEvent::Ping), (25, HeartbeatEvent::Down)]
    {
        assert!(monitor.report().live);
        assert_eq!(beat(&monitor, begun).await, expected);
    }
    let report = monitor.report();
    assert!(!report.live && !report.ready);
    assert_eq!(beat(&monitor, begun).await, (30, HeartbeatEvent::Ping));
    monitor.pong(7);
    assert_eq!(beat(&monitor, begun).await, (30, HeartbeatEvent::Ping));
    monitor.pong(7);
    assert_eq!(beat(&monitor, begun).await, (30, HeartbeatEvent::Up));
    let report = monitor.report();
    assert!(report.live && report.ready);
    assert_eq!((report.pings, report.restarts, report.instance), (4, 0, Some(7)));
}

#[tokio::test(start_paused = true)]
async fn received_bytes_count_as_alive_and_sent_bytes_do_not() {
    let (ours, theirs) = memory_pair();
    let (monitor, begun) = (pinging(ours.control()), Instant::now());
    let (mut sender, mut receiver) = ours.split();
    let (mut far_sender, mut far_receiver) = theirs.split();
    let talk = async {
        loop {
            sleep(s(9)).await;
            far_sender.send("still here").await.unwrap();
            message(&mut receiver).await;
            if begun.elapsed() >= s(90) {
                break;
            }
        }
        // From now on only this side sends.
        loop {
            sleep(s(1)).await;
            sender.send("hello?").await.unwrap();
            message(&mut far_receiver).await;
        }
    };
    tokio::select! {
        () = talk => unreachable!(),
        first = monitor.next_beat() => {
            assert_eq!(first, HeartbeatEvent::Ping);
            let at = begun.elapsed().as_secs();
            // Received bytes are timed with the real clock, which hardly advances in this test, so they
            // count from the time of the check.
            assert!((100..=110).contains(&at), "{at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn received_bytes_count_as_a_response_to_a_ping() {
    let (ours, theirs) = memory_pair();
    let (monitor, begun) = (pinging(ours.control()), Instant::now());
    let (_sender, mut receiver) = ours.split();
    let (mut far_sender, _far_receiver) = theirs.split();
    for _ in 0..5 {
        assert_eq!(beat(&monitor, begun).await.1, HeartbeatEvent::Ping);
        sleep(s(4)).await;
        far_sender.send("busy").await.unwrap();
        message(&mut receiver).await;
    }
    assert!(monitor.report().live);
}

#[tokio::test(start_paused = true)]
async fn restart_and_probe_are_reported_to_a_waiting_task_at_once() {
    let (ours, _theirs) = memory_pair();
    let (monitor, begun) = (pinging(ours.control()), Instant::now());
    monitor.pong(1);
    // A task that is already waiting is notified, too.
    let mut waits = Box::pin(monitor.next_beat());
    assert!(poll_once(waits.as_mut()).await.is_none());
    monitor.pong(2);
    assert_eq!(within("the restart", waits).await, HeartbeatEvent::Restarted { from: 1, to: 2 });
    let mut waits = Box::pin(monitor.next_beat());
    assert!(poll_once(waits.as_mut()).await.is_none());
    monitor.probe_now();
    assert_eq!(within("the probe", waits).await, HeartbeatEvent::Ping);
    assert_eq!((begun.elapsed(), monitor.report().restarts), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn line_without_pings_has_no_beats() {
    let (ours, theirs) = memory_pair();
    let monitor = HealthMonitor::new(ours.control().clone());
    let waited = tokio::time::timeout(s(3600), monitor.next_beat()).await;
    assert!(waited.is_err(), "{waited:?}");
    assert!(monitor.report().live);
    // The end of the line is detected anyway.
    let (_sender, mut receiver) = ours.split();
    drop(theirs);
    support::end(&mut receiver).await;
    assert!(!monitor.report().live);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_has_exited_is_not_live() {
    let line = support::shell("echo $$; exec sleep 1000").connect().await.unwrap();
    let monitor = HealthMonitor::new(line.control().clone());
    let (_sender, mut receiver) = line.split();
    let pid = support::pid(&mut receiver).await;
    assert!(monitor.report().live);
    support::kill(pid);
    // Nothing is received, so only the state of the process can show this.
    tieline_testkit::wait::until("its end", || !monitor.report().live);
}

#[test]
fn operations_are_counted_and_timed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (ours, _theirs) = runtime.block_on(async { memory_pair() });
    let monitor = HealthMonitor::new(ours.control().clone());
    (1..=100).for_each(|ms| monitor.passed(Duration::from_millis(ms)));
    (0..3).for_each(|_| monitor.failed());
    let report = monitor.report();
    assert_eq!((report.failures, report.failures_in_a_row, report.latency.count()), (3, 3, 100));
    let half = report.latency.quantile(0.5);
    assert!((Duration::from_millis(50)..Duration::from_millis(52)).contains(&half), "{half:?}");
    monitor.passed(s(1));
    monitor.failed();
    let report = monitor.report();
    assert_eq!((report.failures, report.failures_in_a_row), (4, 1));
    assert_eq!(report.latency.max(), s(1));
}
