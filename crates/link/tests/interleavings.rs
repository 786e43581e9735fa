//! Checks every interleaving of threads in the pool and in the circuit breaker: there is no deadlock, no
//! line is lent twice, and none leaks. The test compiles the same sources with loom's locks.

#![cfg(target_os = "linux")]
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../src/breaker.rs"]
mod breaker;
#[path = "../src/pool/slots/mod.rs"]
mod slots;

mod sync {
    pub(crate) use loom::sync::{Mutex, MutexGuard};
}

mod recovery {
    pub(crate) fn random() -> f64 {
        0.5
    }
}

use std::future::Future;
use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use breaker::SharedBreaker;
use loom::future::block_on;
use loom::thread;
use slots::{Acquire, Lease, Limits, Refused, Slots, Usage};
use tieline_proto::{BreakerConfig, BreakerState};

/// A line that is counted while it exists.
struct Token(Arc<AtomicUsize>);

impl Token {
    fn new(alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, SeqCst);
        Self(alive.clone())
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn slots(max: usize) -> Arc<Slots<Token>> {
    let long = Duration::from_secs(1 << 30);
    let limits =
        Limits { max, max_waiting: 9, min_idle: 0, idle_timeout: long, held_warning: long };
    Arc::new(Slots::new(limits))
}

fn waits(slots: &Arc<Slots<Token>>) -> Result<Lease<Token>, Refused> {
    block_on(Acquire::new(slots, Location::caller()))
}

/// Polls once for a line, and gives up.
fn gives_up(slots: &Arc<Slots<Token>>) -> Option<Lease<Token>> {
    let mut acquire = pin!(Acquire::new(slots, Location::caller()));
    match acquire.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(lease) => lease.ok(),
        // A line may be granted between this and the drop.
        Poll::Pending => None,
    }
}

fn nothing_is_held(slots: &Arc<Slots<Token>>, idle: usize) {
    assert_eq!(slots.usage(), Usage { idle, ..Usage::default() });
}

#[test]
fn waiter_that_gives_up_leaks_nothing() {
    loom::model(|| {
        let (slots, alive) = (slots(1), Arc::new(AtomicUsize::new(0)));
        let first = slots.try_acquire(Location::caller()).unwrap();
        let giving = thread::spawn({
            let line = Token::new(&alive);
            move || first.give_back(line)
        });
        let quitting = thread::spawn({
            let slots = slots.clone();
            move || drop(gives_up(&slots))
        });
        let mut lease = waits(&slots).expect("the pool is not closed");
        // The lease has the line, unless the other thread was granted it first and dropped it.
        let line = lease.take_line().unwrap_or_else(|| Token::new(&alive));
        assert_eq!(alive.load(SeqCst), 1);
        lease.give_back(line);
        giving.join().unwrap();
        quitting.join().unwrap();
        // The other thread may have been the last to hold the line, and may have dropped it.
        let idle = alive.load(SeqCst);
        nothing_is_held(&slots, idle);
    });
}

#[test]
fn two_waiters_are_both_served_from_one_slot() {
    loom::model(|| {
        let (slots, alive) = (slots(1), Arc::new(AtomicUsize::new(0)));
        let first = slots.try_acquire(Location::caller()).unwrap();
        let waiting = thread::spawn({
            let (slots, alive) = (slots.clone(), alive.clone());
            move || {
                let mut lease = waits(&slots).expect("the pool is not closed");
                let line = lease.take_line().unwrap_or_else(|| Token::new(&alive));
                assert_eq!(alive.load(SeqCst), 1, "one slot, one line");
                lease.give_back(line);
            }
        });
        // Dropping the lease ends its line.
        drop(first);
        let lease = waits(&slots).expect("the pool is not closed");
        drop(lease);
        waiting.join().unwrap();
        let idle = alive.load(SeqCst);
        nothing_is_held(&slots, idle);
    });
}

#[test]
fn closing_ends_every_wait_and_every_line() {
    loom::model(|| {
        let (slots, alive) = (slots(1), Arc::new(AtomicUsize::new(0)));
        let first = slots.try_acquire(Location::caller()).unwrap();
        let giving = thread::spawn({
            let line = Token::new(&alive);
            move || first.give_back(line)
        });
        let waiting = thread::spawn({
            let slots = slots.clone();
            move || waits(&slots).err()
        });
        drop(slots.close());
        giving.join().unwrap();
        let refused = waiting.join().unwrap();
        assert!(matches!(refused, None | Some(Refused::Closed)), "{refused:?}");
        assert_eq!(alive.load(SeqCst), 0);
        nothing_is_held(&slots, 0);
    });
}

/// Returns a breaker that is half-open and allows two trials.
fn on_trial() -> SharedBreaker {
    let config = BreakerConfig { open: Duration::ZERO, trials: 2, ..BreakerConfig::default() };
    let breaker = SharedBreaker::new(config);
    (0..5).for_each(|_| breaker.acquire().unwrap().failed());
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    breaker
}

#[test]
fn abandoned_trial_may_be_repeated_within_the_limit() {
    loom::model(|| {
        let (breaker, under_way) = (on_trial(), Arc::new(AtomicUsize::new(0)));
        let tries = |passes: bool| {
            let (breaker, under_way) = (breaker.clone(), under_way.clone());
            move || {
                let Ok(permit) = breaker.acquire() else { return };
                assert!(under_way.fetch_add(1, SeqCst) < 2);
                thread::yield_now();
                under_way.fetch_sub(1, SeqCst);
                if passes { permit.passed() } else { drop(permit) }
            }
        };
        let threads = [thread::spawn(tries(false)), thread::spawn(tries(false))];
        tries(true)();
        for thread in threads {
            thread.join().unwrap();
        }
        // Abandoned trials may be repeated until enough of them have passed.
        let mut passes = 0;
        while breaker.state() == BreakerState::HalfOpen {
            breaker.acquire().expect("an abandoned trial may be repeated").passed();
            passes += 1;
        }
        assert!((1..=2).contains(&passes), "{passes}");
        assert_eq!(breaker.state(), BreakerState::Closed);
    });
}

#[test]
fn failed_trial_outweighs_trials_that_pass_later() {
    loom::model(|| {
        let breaker = on_trial();
        let passing = breaker.acquire().unwrap();
        let failing = breaker.acquire().unwrap();
        let thread = thread::spawn(move || passing.passed());
        failing.failed();
        thread.join().unwrap();
        // Two trials of the next generation must pass.
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.acquire().unwrap().passed();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.acquire().unwrap().passed();
        assert_eq!(breaker.state(), BreakerState::Closed);
    });
}
