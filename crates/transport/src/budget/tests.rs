#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn budget(units: usize) -> MemoryBudget {
    MemoryBudget::new(ByteSize::new(units * UNIT))
}

#[test]
fn small_buffers_are_not_counted() {
    let budget = budget(1);
    let mut accounts: Vec<_> = (0..100).map(|_| budget.account(Holding::Message)).collect();
    assert!(accounts.iter_mut().all(|it| it.set(UNIT).is_ok()));
    assert_eq!(budget.used().bytes(), 0);
    assert!(Account::unbounded().set(usize::MAX).is_ok());
}

#[test]
fn largest_incomplete_message_is_refused_first() {
    let budget = budget(10);
    let woken = Arc::new(Count::default());
    let waker = Waker::from(woken.clone());
    let mut queue = budget.account(Holding::Queue);
    let [mut small, mut large] = [0, 1].map(|_| budget.account(Holding::Message));
    queue.set(4 * UNIT).unwrap();
    small.set(2 * UNIT).unwrap();
    large.set(4 * UNIT).unwrap();
    large.check(&waker).unwrap();
    // The budget is full. A request that would be the largest is refused, and the other accounts are
    // kept.
    let mut largest = budget.account(Holding::Message);
    assert_eq!(largest.set(5 * UNIT).unwrap_err().limit, budget.limit());
    assert!(!large.is_revoked() && budget.refused() == 1);
    // A smaller request is granted by revoking the largest account.
    small.set(3 * UNIT).unwrap();
    assert!(large.is_revoked() && !queue.is_revoked() && budget.refused() == 2);
    assert_eq!(woken.0.load(Relaxed), 1);
    assert_eq!(large.set(3 * UNIT).unwrap_err().held.bytes(), 4 * UNIT);
    assert!(large.check(&waker).is_err());
    drop(large);
    assert_eq!(budget.used().bytes(), 7 * UNIT);
    // The queue is larger than any message, but queues are revoked only if there is no message.
    let mut other = budget.account(Holding::Queue);
    other.set(4 * UNIT).unwrap();
    assert!(small.is_revoked() && !queue.is_revoked());
    drop((small, largest));
    assert!(other.set(7 * UNIT).is_err(), "it would be the largest queue");
    other.set(6 * UNIT).unwrap();
    drop((queue, other));
    assert_eq!(budget.used().bytes(), 0);
    assert_eq!(budget.state().leaving, 0);
}

#[test]
fn at_most_a_quarter_is_granted_beyond_the_limit() {
    let budget = budget(8);
    let mut large: Vec<_> = (0..2).map(|_| budget.account(Holding::Message)).collect();
    for account in &mut large {
        account.set(4 * UNIT).unwrap();
    }
    // To grant these, both large accounts are revoked, but neither has been dropped yet.
    let mut small: Vec<_> = (0..4).map(|_| budget.account(Holding::Message)).collect();
    let granted = small.iter_mut().filter_map(|it| it.set(2 * UNIT).ok()).count();
    assert_eq!(granted, 1);
    assert!(budget.used().bytes() <= 10 * UNIT);
    drop(large);
    assert_eq!(small.iter_mut().filter_map(|it| it.set(2 * UNIT).ok()).count(), 4);
}

#[test]
fn released_memory_can_be_granted_again() {
    let budget = budget(4);
    let mut account = budget.account(Holding::Message);
    for round in 0..100 {
        account.set(4 * UNIT - round).unwrap();
        account.set(round).unwrap();
    }
    assert_eq!(budget.used().bytes(), 0);
    assert!(account.set(usize::MAX).is_err());
    assert!(account.set(5 * UNIT).is_err());
    account.set(2 * UNIT).unwrap();
    assert_eq!(budget.used().bytes(), 2 * UNIT);
}
