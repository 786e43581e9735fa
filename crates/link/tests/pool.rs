//! Pools: which caller gets which line, the order of waiting callers, and cancellation.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/pools.rs"]
mod pools;
mod support;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pools::{get, pool, rests, s};
use support::{Step, World, message, poll_once, shell, within};
use tieline_link::{BreakerOpen, Pool, PoolConfig, PoolError, Retries, SharedBreaker};
use tieline_proto::{BackoffConfig, BreakerConfig, BreakerState, RetryBudgetConfig};
use tieline_transport::{Channel, CloseReason, ErrorKind, Incoming, ReceiverExt, SenderExt};
use tokio::time::{Instant, advance};

#[tokio::test]
async fn line_given_back_is_reused_and_dropped_line_is_closed() {
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
async fn most_recently_used_line_is_lent_first() {
    let (pool, _far_ends) = pool(2, []);
    let (one, two) = (get(&pool).await, get(&pool).await);
    let since = two.control().info().since;
    one.give_back();
    two.give_back();
    assert_eq!(get(&pool).await.control().info().since, since);
}

#[tokio::test]
async fn waiters_are_served_in_order_and_one_that_gives_up_leaves_the_queue() {
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
        // A new caller does not overtake the waiter that was granted the line.
        assert!(poll_once(pool.get()).await.is_none());
        held = within("its turn", get.as_mut()).await.unwrap();
    }
    held.give_back();
    assert_eq!((rests(&pool), pool.stats().connected), ((true, 1), 1));
}

#[tokio::test(start_paused = true)]
async fn waiter_that_moves_to_another_task_is_woken_there() {
    let (pool, _far_ends) = pool(1, []);
    let pool = Arc::new(pool);
    let first = get(&pool).await;
    let begun = Instant::now();
    let taken = pool.clone();
    let mut waits = Box::pin(async move { taken.get().await.unwrap().give_back() });
    let mut elsewhere = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waits.as_mut().poll(&mut elsewhere).is_pending());
    let waits = tokio::spawn(waits);
    // Let the other task poll it.
    tokio::task::yield_now().await;
    first.give_back();
    waits.await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO, "it must be woken, not time out");
}

#[tokio::test]
async fn line_granted_to_a_waiter_that_gives_up_goes_to_the_next() {
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
async fn cancelled_attempt_to_connect_frees_its_slot() {
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
async fn failed_attempt_to_connect_lets_the_next_caller_try() {
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
async fn timeout_reports_the_line_held_longest() {
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
async fn callers_above_the_waiting_limit_are_refused() {
    let (world, _far_ends) = World::new([]);
    let config = PoolConfig { max: 1, max_waiting: 1, ..PoolConfig::default() };
    let pool = Pool::new(world, config).unwrap();
    let _held = get(&pool).await;
    let mut waits = Box::pin(pool.get());
    assert!(poll_once(waits.as_mut()).await.is_none());
    assert!(matches!(pool.get().await, Err(PoolError::TooManyWaiting)));
}

#[tokio::test(start_paused = true)]
async fn breaker_guards_attempts_to_connect() {
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
    // The sixth attempt still fails; the next three pass.
    assert!(matches!(pool.get().await, Err(PoolError::Connect(_))));
    assert!(matches!(pool.get().await, Err(PoolError::BreakerOpen(_))));
    advance(s(10)).await;
    let lines = [get(&pool).await, get(&pool).await];
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    let third = get(&pool).await;
    assert_eq!(breaker.state(), BreakerState::Closed);
    // Existing lines need no attempt to connect, so the breaker does not matter.
    third.give_back();
    breaker.isolate();
    get(&pool).await.give_back();
    drop(lines);
}

#[tokio::test(start_paused = true)]
async fn retryable_failures_to_connect_are_retried_within_the_budget() {
    let failures = (0..3).map(|_| Step::Fail(ErrorKind::Refused));
    let denied = [Step::Fail(ErrorKind::PermissionDenied)];
    let (pool, _far_ends) = pool(4, failures.chain(denied));
    let budget = RetryBudgetConfig { tokens: 6, ..RetryBudgetConfig::default() };
    let retries = Retries::new(budget, BackoffConfig::LOCAL);
    let pool = pool.with_retries(retries.clone());
    // Two failures are retried. The third leaves half of the tokens, so its caller gets the error.
    let refused = pool.get().await;
    assert!(
        matches!(&refused, Err(PoolError::Connect(error)) if error.is_retryable()),
        "{refused:?}"
    );
    assert_eq!((pool.stats().connect_failures, retries.tokens()), (3, 3));
    // An error that a retry cannot fix is returned at once, and uses no tokens.
    let denied = pool.get().await;
    assert!(matches!(&denied, Err(PoolError::Connect(error)) if !error.is_retryable()));
    assert_eq!((pool.stats().connect_failures, retries.tokens()), (4, 3));
    get(&pool).await.give_back();
}

#[tokio::test]
async fn closing_the_pool_ends_all_lines_and_fails_waiting_callers() {
    let pool = Pool::new(
        shell("trap 'exit 0' TERM; read line; exit 7"),
        PoolConfig { max: 2, ..PoolConfig::default() },
    )
    .unwrap();
    let (idle, held) = (get(&pool).await, get(&pool).await);
    let control = idle.control().clone();
    let mut waits = Box::pin(pool.get());
    assert!(poll_once(waits.as_mut()).await.is_none());
    // The line would go to the waiter, so cancel the wait first.
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
    within("maintenance of a closed pool", pool.maintain()).await;
}

#[tokio::test]
async fn closing_ends_an_idle_child_in_stages() {
    let pool = Pool::new(shell("read line; exit 7"), PoolConfig::default()).unwrap();
    let line = get(&pool).await;
    let control = line.control().clone();
    line.give_back();
    within("closing", pool.close()).await;
    // Closing its input was enough.
    let reason = control.close_reason();
    let Some(CloseReason::ChildExited(exit)) = reason else { panic!("{reason:?}") };
    assert_eq!(exit.status.code(), Some(7));
}

#[tokio::test]
async fn dropped_pool_keeps_no_lines() {
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

/// A random number generator (xorshift).
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
async fn random_cancellation_leaks_no_lines_and_mixes_up_no_responses() {
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
                    // Cancel, possibly in the middle of an attempt.
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
                    // The response has not arrived yet, and must not reach the next caller.
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
