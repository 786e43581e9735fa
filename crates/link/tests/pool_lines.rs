//! When a pool closes a line: with unsent or unread data, after its end, or because of its age.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/pools.rs"]
mod pools;
mod support;

use std::future::Future;
use std::time::Duration;

use pools::{get, pool, rests, s};
use support::{Step, World, message, shell, within};
use tieline_link::{Pool, PoolConfig, PoolStats, Pooled};
use tieline_proto::{ByteSize, FramingKind};
use tieline_transport::{
    Channel, Endpoint, ErrorKind, Incoming, MemoryChannel, Options, ReceiverExt, Registry,
    SenderExt,
};
use tokio::time::{Instant, advance, sleep};

#[tokio::test]
async fn line_with_unread_data_is_not_reused() {
    // The unread data is a message, part of a message, or the end.
    for (script, ends) in [
        ("printf 'one\\ntwo\\n'", false),
        ("printf 'one\\nhalf'", false),
        ("echo one; exec >&-", true),
    ] {
        // One write arrives as one read.
        let connector = shell(&format!("{script}; exec sleep 1000"));
        let pool = Pool::new(connector, PoolConfig::default()).unwrap();
        let mut line = get(&pool).await;
        assert_eq!(message(line.receiver()).await, "one");
        if ends {
            assert!(matches!(within("the end", line.receiver().recv()).await, Incoming::End(_)));
        }
        line.give_back();
        assert_eq!((pool.stats().dirty, rests(&pool)), (1, (true, 0)), "{script}");
    }
}

#[tokio::test]
async fn part_of_a_message_is_detected_even_if_none_of_it_is_buffered() {
    // A complete message is followed by a header without its body, or by an unfinished line above the
    // limit.
    for (framing, output) in [
        (
            FramingKind::ContentLength,
            "Content-Length: 3\\r\\n\\r\\noneContent-Length: 9\\r\\n\\r\\n",
        ),
        (FramingKind::Lines, "one\\nthis is too long to be taken"),
    ] {
        let mut options = Options { framing: Some(framing), ..Options::default() };
        options.channel.max_message = ByteSize::new(16);
        for json in [false, true] {
            options.json = json;
            let output = output.replace("one", if json { "123" } else { "one" });
            let script = format!("printf '{output}'; exec sleep 1000");
            let endpoint = Endpoint::exec("sh", ["-c", &script]);
            let connector = Registry::new().connector(&endpoint, &options).unwrap();
            let pool = Pool::new(connector.into(), PoolConfig::default()).unwrap();
            let mut line = get(&pool).await;
            assert_eq!(message(line.receiver()).await.len(), 3);
            if framing == FramingKind::Lines {
                let fault = within("the fault", line.receiver().recv()).await;
                assert!(matches!(fault, Incoming::Fault(_)), "{fault:?}");
            }
            line.give_back();
            assert_eq!((pool.stats().dirty, rests(&pool)), (1, (true, 0)), "{script}");
        }
    }
}

#[tokio::test]
async fn line_with_unsent_data_that_cannot_be_written_is_dirty() {
    let (pool, _far_ends) = pool(1, []);
    let mut line = get(&pool).await;
    // The message is larger than the peer's buffer, and the peer does not read.
    line.sender().feed(vec![b'x'; 1 << 20]).await.unwrap();
    line.give_back();
    assert_eq!((pool.stats().dirty, rests(&pool)), (1, (true, 0)));
    // Data that can be written is flushed.
    let mut line = get(&pool).await;
    line.sender().feed("x").await.unwrap();
    line.give_back();
    assert_eq!((pool.stats().dirty, rests(&pool)), (1, (true, 1)));
}

#[test]
fn line_given_back_without_a_runtime_is_closed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (pool, _far_ends) = pool(1, []);
    let line = runtime.block_on(pool.get()).unwrap();
    line.give_back();
    assert_eq!((pool.stats().dirty, rests(&pool)), (1, (true, 0)));
}

/// Applies `change` to the far end of an idle line, and returns the statistics after the next use of the
/// pool.
async fn after_idling(
    idle: Duration,
    change: impl AsyncFnOnce(MemoryChannel) -> Option<MemoryChannel>,
) -> PoolStats {
    let (pool, mut far_ends) = pool(1, []);
    get(&pool).await.give_back();
    let far = far_ends.recv().await.unwrap();
    let _far = change(far).await;
    advance(idle).await;
    let mut line = get(&pool).await;
    line.sender().send("hello").await.unwrap();
    pool.stats()
}

#[tokio::test(start_paused = true)]
async fn line_idle_for_longer_than_check_after_is_checked() {
    let ms = Duration::from_millis;
    let nothing = async |far| Some(far);
    assert_eq!(after_idling(ms(501), nothing).await.broken, 0);
    let ends = async |far: MemoryChannel| {
        drop(far);
        None
    };
    let stats = after_idling(ms(501), ends).await;
    assert_eq!((stats.broken, stats.connected), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn message_received_while_idle_does_not_reach_the_next_caller() {
    let (pool, mut far_ends) = pool(1, []);
    get(&pool).await.give_back();
    let (mut late, _keep) = far_ends.recv().await.unwrap().split();
    late.send("too late").await.unwrap();
    advance(s(1)).await;
    let mut line = get(&pool).await;
    assert_eq!((pool.stats().broken, pool.stats().connected), (1, 2));
    let (mut far, _keep_too) = far_ends.recv().await.unwrap().split();
    far.send("in time").await.unwrap();
    assert_eq!(message(line.receiver()).await, "in time");
}

/// Runs `test` while `maintain` is driven.
async fn maintained(pool: &Pool, test: impl Future<Output = ()>) {
    tokio::select! {
        () = pool.maintain() => panic!("the maintenance has ended"),
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn lines_idle_for_ten_minutes_are_closed_on_use_and_by_maintenance() {
    for is_maintained in [false, true] {
        let (pool, mut far_ends) = pool(3, []);
        let lines = [get(&pool).await, get(&pool).await, get(&pool).await];
        lines.into_iter().for_each(Pooled::give_back);
        let test = async {
            // The line in use remains.
            for _ in 0..11 {
                sleep(s(60)).await;
                let one = pool.get().await.unwrap();
                one.give_back();
            }
            assert_eq!((pool.stats().expired, rests(&pool)), (2, (true, 1)));
            for _ in 0..2 {
                let (_keep, mut far) = far_ends.recv().await.unwrap().split();
                assert!(matches!(far.recv().await, Incoming::End(_)));
            }
            if is_maintained {
                sleep(s(11 * 60)).await;
                assert_eq!((pool.stats().expired, rests(&pool)), (3, (true, 0)));
            }
        };
        if is_maintained { maintained(&pool, test).await } else { test.await }
    }
}

#[tokio::test(start_paused = true)]
async fn line_is_closed_at_an_age_of_30_minutes_with_jitter() {
    for is_maintained in [false, true] {
        let (world, _far_ends) = World::new([]);
        let config = PoolConfig { max: 1, idle_timeout: s(86_400), ..PoolConfig::default() };
        let pool = Pool::new(world, config).unwrap();
        let test = async {
            let begun = Instant::now();
            while pool.stats().expired == 0 {
                pool.get().await.unwrap().give_back();
                sleep(s(31)).await;
            }
            let lived = begun.elapsed().as_secs();
            assert!((27 * 60..=33 * 60 + 62).contains(&lived), "{lived} s");
        };
        if is_maintained {
            maintained(&pool, test).await
        } else {
            test.await
        }
        // A line that reaches its maximum age while idle is closed, too, and so is one that is in use
        // all the time.
        get(&pool).await.give_back();
        sleep(s(34 * 60)).await;
        let before = pool.stats();
        drop(get(&pool).await);
        let after = pool.stats();
        assert_eq!((after.expired, after.connected), (before.expired + 1, before.connected + 1));
        let held = get(&pool).await;
        sleep(s(34 * 60)).await;
        held.give_back();
        assert_eq!((pool.stats().expired, pool.stats().dirty, rests(&pool)), (3, 1, (true, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn min_idle_lines_are_connected_in_advance_and_kept() {
    let (world, mut far_ends) = World::new([Step::Line, Step::Fail(ErrorKind::Refused)]);
    let config = PoolConfig { min_idle: 2, ..PoolConfig::default() };
    let pool = Pool::new(world, config).unwrap();
    maintained(&pool, async {
        sleep(s(1)).await;
        assert_eq!((rests(&pool), pool.stats().connect_failures), ((true, 1), 1));
        sleep(s(30)).await;
        assert_eq!(rests(&pool), (true, 2));
        sleep(s(20 * 60)).await;
        assert_eq!((rests(&pool), pool.stats().expired), ((true, 2), 0));
        sleep(s(20 * 60)).await;
        assert_eq!((rests(&pool), pool.stats().expired), ((true, 2), 2));
    })
    .await;
    drop(pool);
    // All four lines have ended.
    for _ in 0..4 {
        let (_keep, mut far) = far_ends.recv().await.unwrap().split();
        assert!(matches!(far.recv().await, Incoming::End(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn line_held_for_too_long_is_reported_once() {
    let (pool, _far_ends) = pool(3, []);
    let (one, two, three) = (get(&pool).await, get(&pool).await, get(&pool).await);
    sleep(s(60)).await;
    // This line was held exactly up to the limit, so it is not reported.
    three.give_back();
    maintained(&pool, sleep(s(300))).await;
    assert_eq!(pool.stats().overdue, 2);
    one.give_back();
    drop(two);
    assert_eq!(pool.stats().overdue, 2);
    // Without maintenance, this is noticed when the line is given back.
    let late = get(&pool).await;
    sleep(s(61)).await;
    assert_eq!(pool.stats().overdue, 2);
    late.give_back();
    assert_eq!(pool.stats().overdue, 3);
}
