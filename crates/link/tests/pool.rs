//! Lines that are kept for the next: whose they are, when they are closed, and who waits.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use support::{FarEnds, Step, World, message, poll_once, shell, within};
use tieline_link::{BreakerOpen, Pool, PoolConfig, PoolError, PoolStats, Pooled, SharedBreaker};
use tieline_proto::{BreakerConfig, BreakerState, ByteSize, FramingKind};
use tieline_transport::{
    Channel, CloseReason, Endpoint, ErrorKind, Incoming, MemoryChannel, Options, ReceiverExt,
    Registry, SenderExt,
};
use tokio::time::{Instant, advance, sleep};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A pool of at most so many in-memory lines.
fn pool(max: usize, script: impl IntoIterator<Item = Step>) -> (Pool, FarEnds) {
    let config = PoolConfig { max, ..PoolConfig::default() };
    let (world, far_ends) = World::new(script);
    (Pool::new(world, config).unwrap(), far_ends)
}

async fn get(pool: &Pool) -> Pooled {
    within("a line", pool.get()).await.unwrap()
}

/// Whether nothing is held, and how many lines are idle.
fn rests(pool: &Pool) -> (bool, usize) {
    let PoolStats { in_use, waiting, idle, .. } = pool.stats();
    (in_use + waiting == 0, idle)
}

#[tokio::test]
async fn a_line_that_was_given_back_is_used_again_and_one_that_was_dropped_is_closed() {
    let (pool, mut far_ends) = pool(2, []);
    for _ in 0..3 {
        let mut line = get(&pool).await;
        line.sender().send("hello").await.unwrap();
        line.give_back();
    }
    assert_eq!((pool.stats().connected, pool.stats().taken, pool.stats().idle), (1, 3, 1));
    let (_keep, mut far) = far_ends.recv().await.unwrap().split();
    for _ in 0..3 {
        assert_eq!(message(&mut far).await, "hello");
    }
    drop(get(&pool).await);
    assert!(matches!(within("the end", far.recv()).await, Incoming::End(_)));
    assert_eq!((pool.stats().dirty, rests(&pool)), (1, (true, 0)));
}

#[tokio::test]
async fn the_line_used_last_is_used_first() {
    let (pool, _far_ends) = pool(2, []);
    let (one, two) = (get(&pool).await, get(&pool).await);
    let since = two.control().info().since;
    one.give_back();
    two.give_back();
    assert_eq!(get(&pool).await.control().info().since, since);
}

#[tokio::test]
async fn a_line_with_something_left_in_it_is_not_used_again() {
    // An answer that nobody has taken; a part of one; the end.
    for (script, ends) in [
        ("printf 'one\\ntwo\\n'", false),
        ("printf 'one\\nhalf'", false),
        ("echo one; exec >&-", true),
    ] {
        // One write is one read.
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
async fn a_part_of_a_message_is_seen_where_nothing_of_it_is_kept() {
    // Behind a whole message: a header without its body; the middle of a line that is too long.
    for (framing, said) in [
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
            let said = said.replace("one", if json { "123" } else { "one" });
            let script = format!("printf '{said}'; exec sleep 1000");
            let endpoint = Endpoint::exec("sh", ["-c", &script]);
            let connector = Registry::new().connector(&endpoint, &options).unwrap();
            let pool = Pool::new(connector.into(), PoolConfig::default()).unwrap();
            let mut line = get(&pool).await;
            assert_eq!(message(line.receiver()).await.len(), 3);
            line.give_back();
            assert_eq!((pool.stats().dirty, rests(&pool)), (1, (true, 0)), "{script}");
        }
    }
}

#[tokio::test]
async fn what_is_unsent_and_cannot_leave_makes_a_line_dirty() {
    let (pool, _far_ends) = pool(1, []);
    let mut line = get(&pool).await;
    // More than the far side's buffer holds, and it does not read.
    line.sender().feed(vec![b'x'; 1 << 20]).await.unwrap();
    line.give_back();
    assert_eq!((pool.stats().dirty, rests(&pool)), (1, (true, 0)));
    // What can leave does.
    let mut line = get(&pool).await;
    line.sender().feed("x").await.unwrap();
    line.give_back();
    assert_eq!((pool.stats().dirty, rests(&pool)), (1, (true, 1)));
}

#[test]
fn a_line_given_back_without_a_runtime_is_closed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (pool, _far_ends) = pool(1, []);
    let line = runtime.block_on(pool.get()).unwrap();
    line.give_back();
    assert_eq!((pool.stats().dirty, rests(&pool)), (1, (true, 0)));
}

/// What becomes of an idle line behind whose back something happens.
async fn after_idling(
    idle: Duration,
    what: impl AsyncFnOnce(MemoryChannel) -> Option<MemoryChannel>,
) -> PoolStats {
    let (pool, mut far_ends) = pool(1, []);
    get(&pool).await.give_back();
    let far = far_ends.recv().await.unwrap();
    let _far = what(far).await;
    advance(idle).await;
    let mut line = get(&pool).await;
    line.sender().send("hello").await.unwrap();
    pool.stats()
}

#[tokio::test(start_paused = true)]
async fn an_idle_line_is_checked_unless_it_was_used_a_moment_ago() {
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
async fn what_comes_while_a_line_is_idle_is_nobody_elses_answer() {
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

#[tokio::test]
async fn those_who_wait_are_served_in_order_and_one_who_gives_up_leaves_its_place() {
    let (pool, _far_ends) = pool(1, []);
    let first = get(&pool).await;
    let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(pool.get())).collect();
    for get in &mut waiting {
        assert!(poll_once(get.as_mut()).await.is_none());
    }
    assert_eq!(pool.stats().waiting, 4);
    drop(waiting.remove(1));
    assert_eq!(pool.stats().waiting, 3);
    let mut held = first;
    for mut get in waiting {
        held.give_back();
        // Nobody overtakes who has been given it.
        assert!(poll_once(pool.get()).await.is_none());
        held = within("its turn", get.as_mut()).await.unwrap();
    }
    held.give_back();
    assert_eq!((rests(&pool), pool.stats().connected), ((true, 1), 1));
}

#[tokio::test]
async fn who_began_to_wait_in_another_task_is_woken_where_it_waits_now() {
    let (pool, _far_ends) = pool(1, []);
    let first = get(&pool).await;
    let mut waits = Box::pin(pool.get());
    let mut elsewhere = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waits.as_mut().poll(&mut elsewhere).is_pending());
    let (here, ()) = within("the line", async {
        tokio::join!(waits, async {
            // It waits here by now.
            tokio::task::yield_now().await;
            first.give_back();
        })
    })
    .await;
    here.unwrap().give_back();
}

#[tokio::test]
async fn a_line_that_was_given_to_one_who_gives_up_goes_to_the_next() {
    let (pool, _far_ends) = pool(1, []);
    let first = get(&pool).await;
    let (mut gives_up, mut next) = (Box::pin(pool.get()), Box::pin(pool.get()));
    assert!(poll_once(gives_up.as_mut()).await.is_none());
    assert!(poll_once(next.as_mut()).await.is_none());
    first.give_back();
    drop(gives_up);
    within("the line", next).await.unwrap().give_back();
    assert_eq!((rests(&pool), pool.stats().connected), ((true, 1), 1));
}

#[tokio::test]
async fn an_attempt_that_is_given_up_frees_its_place() {
    let (world, _far_ends) = World::new([Step::Wait]);
    let config = PoolConfig { max: 1, ..PoolConfig::default() };
    let pool = Pool::new(world.clone(), config).unwrap();
    let mut attempt = Box::pin(pool.get());
    assert!(poll_once(attempt.as_mut()).await.is_none());
    assert_eq!(pool.stats().in_use, 1);
    drop(attempt);
    world.waits(0).await;
    assert_eq!(rests(&pool), (true, 0));
    get(&pool).await.give_back();
}

#[tokio::test]
async fn an_attempt_that_fails_lets_the_next_one_try() {
    let (pool, _far_ends) = pool(1, [Step::Line, Step::Fail(ErrorKind::Refused)]);
    let first = get(&pool).await;
    let (mut second, mut third) = (Box::pin(pool.get()), Box::pin(pool.get()));
    assert!(poll_once(second.as_mut()).await.is_none());
    assert!(poll_once(third.as_mut()).await.is_none());
    drop(first);
    let error = within("the error", second).await.unwrap_err();
    assert!(matches!(&error, PoolError::Connect(e) if matches!(e.kind(), ErrorKind::Refused)));
    within("the line", third).await.unwrap().give_back();
    assert_eq!((pool.stats().connect_failures, rests(&pool)), (1, (true, 1)));
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_is_told_who_holds_the_line() {
    let (pool, _far_ends) = pool(1, []);
    let (held, line) = (pool.get().await.unwrap(), line!());
    let begun = Instant::now();
    let error = pool.get().await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 30);
    let PoolError::TimedOut { limit, longest: Some((held_for, at)) } = &error else {
        panic!("{error}")
    };
    assert_eq!((limit.as_secs(), held_for.as_secs(), at.line()), (30, 30, line));
    assert!(at.file().ends_with("pool.rs") && error.to_string().contains("pool.rs"), "{error}");
    assert_eq!((pool.stats().timeouts, pool.stats().waiting), (1, 0));
    drop(held);
}

#[tokio::test]
async fn more_do_not_wait_than_may() {
    let (world, _far_ends) = World::new([]);
    let config = PoolConfig { max: 1, max_waiting: 1, ..PoolConfig::default() };
    let pool = Pool::new(world, config).unwrap();
    let _held = get(&pool).await;
    let mut waits = Box::pin(pool.get());
    assert!(poll_once(waits.as_mut()).await.is_none());
    assert!(matches!(pool.get().await, Err(PoolError::TooManyWaiting)));
}

/// Drives `maintain` beside `test`.
async fn maintained(pool: &Pool, test: impl Future<Output = ()>) {
    tokio::select! {
        () = pool.maintain() => panic!("it ended"),
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn idle_lines_are_closed_after_ten_minutes_on_use_and_by_maintenance() {
    for is_maintained in [false, true] {
        let (pool, mut far_ends) = pool(3, []);
        let lines = [get(&pool).await, get(&pool).await, get(&pool).await];
        lines.into_iter().for_each(Pooled::give_back);
        let test = async {
            // The one that is needed stays.
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
async fn a_line_lives_for_half_an_hour_a_tenth_more_or_less() {
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
        // Also one that grows old while nobody looks, and one that is in use all the time.
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
async fn as_many_as_wanted_are_connected_ahead_and_kept() {
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
    // Of the four that there were, nothing is left.
    for _ in 0..4 {
        let (_keep, mut far) = far_ends.recv().await.unwrap().split();
        assert!(matches!(far.recv().await, Incoming::End(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_held_for_long_is_reported_once() {
    let (pool, _far_ends) = pool(3, []);
    let (one, two, three) = (get(&pool).await, get(&pool).await, get(&pool).await);
    sleep(s(60)).await;
    // At the limit, and not beyond.
    three.give_back();
    maintained(&pool, sleep(s(300))).await;
    assert_eq!(pool.stats().overdue, 2);
    one.give_back();
    drop(two);
    assert_eq!(pool.stats().overdue, 2);
    // Nobody looked meanwhile: it is noticed when it comes back.
    let late = get(&pool).await;
    sleep(s(61)).await;
    assert_eq!(pool.stats().overdue, 2);
    late.give_back();
    assert_eq!(pool.stats().overdue, 3);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_stands_in_front_of_connecting() {
    let failures = (0..6).map(|_| Step::Fail(ErrorKind::Refused));
    let (pool, _far_ends) = pool(4, failures);
    let pool = pool.with_breaker(SharedBreaker::new(BreakerConfig::default()));
    let breaker = pool.breaker().unwrap().clone();
    for _ in 0..5 {
        assert!(matches!(pool.get().await, Err(PoolError::Connect(_))));
    }
    let refused = pool.get().await;
    let Err(PoolError::BreakerOpen(BreakerOpen { retry_after: Some(after), .. })) = refused else {
        panic!("{refused:?}")
    };
    assert!((s(4)..=s(6)).contains(&after), "{after:?}");
    assert_eq!((pool.stats().connect_failures, pool.stats().rejected), (5, 1));
    advance(after + s(1)).await;
    // The sixth fails still; then three pass.
    assert!(matches!(pool.get().await, Err(PoolError::Connect(_))));
    assert!(matches!(pool.get().await, Err(PoolError::BreakerOpen(_))));
    advance(s(10)).await;
    let lines = [get(&pool).await, get(&pool).await];
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    let third = get(&pool).await;
    assert_eq!(breaker.state(), BreakerState::Closed);
    // Lines that there are need no attempt, and so no breaker.
    third.give_back();
    breaker.isolate();
    get(&pool).await.give_back();
    drop(lines);
}

#[tokio::test]
async fn closing_ends_all_and_tells_those_who_wait() {
    let pool = Pool::new(
        shell("trap 'exit 0' TERM; read line; exit 7"),
        PoolConfig { max: 2, ..PoolConfig::default() },
    )
    .unwrap();
    let (idle, held) = (get(&pool).await, get(&pool).await);
    let control = idle.control().clone();
    let mut waits = Box::pin(pool.get());
    assert!(poll_once(waits.as_mut()).await.is_none());
    // It goes to who waits; so give it up first.
    drop(waits);
    idle.give_back();
    let mut waits = Box::pin(pool.get());
    let taken = within("the idle one", waits.as_mut()).await.unwrap();
    let mut waits = Box::pin(pool.get());
    assert!(poll_once(waits.as_mut()).await.is_none());
    within("closing", pool.close()).await;
    assert!(matches!(within("the end", waits).await, Err(PoolError::Closed)));
    assert!(matches!(pool.get().await, Err(PoolError::Closed)));
    taken.give_back();
    held.give_back();
    assert_eq!(rests(&pool), (true, 0));
    assert!(control.close_reason().is_some());
    within("maintenance of what is closed", pool.maintain()).await;
}

#[tokio::test]
async fn closing_ends_an_idle_child_in_stages() {
    let pool = Pool::new(shell("read line; exit 7"), PoolConfig::default()).unwrap();
    let line = get(&pool).await;
    let control = line.control().clone();
    line.give_back();
    within("closing", pool.close()).await;
    // The end of its input was enough.
    let reason = control.close_reason();
    let Some(CloseReason::ChildExited(exit)) = reason else { panic!("{reason:?}") };
    assert_eq!(exit.status.code(), Some(7));
}

#[tokio::test]
async fn a_dropped_pool_keeps_no_line_whoever_still_holds_one() {
    let (pool, mut far_ends) = pool(2, []);
    let (held, idle) = (get(&pool).await, get(&pool).await);
    let (_keep, mut far_of_held) = far_ends.recv().await.unwrap().split();
    let (_keep_too, mut far_of_idle) = far_ends.recv().await.unwrap().split();
    idle.give_back();
    drop(pool);
    assert!(matches!(within("the end", far_of_idle.recv()).await, Incoming::End(_)));
    assert!(poll_once(far_of_held.recv()).await.is_none());
    held.give_back();
    assert!(matches!(within("the end", far_of_held.recv()).await, Incoming::End(_)));
}

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_given_up_nothing_is_lost() {
    let seed = {
        use std::hash::{BuildHasher, Hasher};
        std::collections::hash_map::RandomState::new().build_hasher().finish() | 1
    };
    println!("seed {seed}");
    for check_after in [PoolConfig::default().check_after, Duration::ZERO] {
        give_up(seed, check_after).await;
    }
}

async fn give_up(seed: u64, check_after: Duration) {
    let (world, mut far_ends) = World::new([]);
    let config = PoolConfig { max: 3, check_after, ..PoolConfig::default() };
    let pool = Arc::new(Pool::new(world, config).unwrap());
    let echo = tokio::spawn(async move {
        let mut echoes = tokio::task::JoinSet::new();
        while let Some(far) = far_ends.recv().await {
            echoes.spawn(async move {
                let (mut sender, mut receiver) = far.split();
                while let Incoming::Message(message) = receiver.recv().await {
                    let _ = sender.send(message).await;
                }
            });
        }
        while echoes.join_next().await.is_some() {}
    });
    let mut users = tokio::task::JoinSet::new();
    for user in 0..8 {
        let (pool, mut random) = (pool.clone(), Random(seed.wrapping_add(user) | 1));
        users.spawn(async move {
            for number in 0..500 {
                if random.below(4) == 0 {
                    // Gives up, with luck in the middle.
                    let got = poll_once(pool.get()).await;
                    tokio::task::yield_now().await;
                    drop(got);
                    continue;
                }
                let mut line = within("a line", pool.get()).await.unwrap();
                assert!(pool.stats().in_use <= 3);
                let question = format!("{user} {number}");
                line.sender().send(question.clone()).await.unwrap();
                match random.below(4) {
                    // The answer is still to come, and must not be the next one's.
                    0 => drop(line),
                    1 if poll_once(line.receiver().recv()).await.is_none() => drop(line),
                    1 => line.give_back(),
                    _ => {
                        assert_eq!(message(line.receiver()).await, question);
                        line.give_back();
                    }
                }
            }
        });
    }
    while let Some(user) = within("the users", users.join_next()).await {
        user.unwrap();
    }
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting), (0, 0), "{stats:?}");
    assert_eq!(stats.connected, stats.dirty + stats.broken + stats.idle as u64, "{stats:?}");
    drop(pool);
    within("the far ends", echo).await.unwrap();
}
