//! How many are inside. When it is full, whoever has stood in the door for longest without being let in
//! goes, so that many who say nothing keep nobody out who says something.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::channel::lock;

/// Counts connections.
pub(super) struct ConnectionLimiter {
    inside: Mutex<Inside>,
    most: usize,
    most_per_peer: usize,
    /// Told when the last one goes.
    is_empty: Notify,
}

#[derive(Default)]
struct Inside {
    next: u64,
    total: usize,
    of_peer: HashMap<IpAddr, usize>,
    /// Those that were not let in yet, oldest first.
    waiting: BTreeMap<u64, (Option<IpAddr>, Arc<Notify>)>,
}

/// A connection that is inside, until this is dropped.
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    pub(super) id: u64,
    peer: Option<IpAddr>,
    evicted: Arc<Notify>,
}

/// What came of somebody's wish to come in.
pub(super) enum Admission {
    Admitted(ConnectionPermit),
    /// Somebody else had to go.
    AdmittedByEviction(ConnectionPermit),
    Full,
}

impl ConnectionLimiter {
    pub(super) fn new(most: usize, most_per_peer: usize) -> Self {
        let (inside, is_empty) = (Mutex::default(), Notify::new());
        Self { inside, most, most_per_peer, is_empty }
    }

    /// Takes a connection of `peer`; one without an address counts only in all.
    pub(super) fn try_admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Admission {
        let peer = peer.map(network);
        let mut inside = lock(&self.inside);
        let of_peer = peer.map_or(0, |peer| inside.of_peer.get(&peer).copied().unwrap_or_default());
        let leaves = if of_peer >= self.most_per_peer {
            let theirs = inside.waiting.iter().find(|(_, (known, _))| *known == peer);
            theirs.map(|(id, _)| *id)
        } else if inside.total >= self.most {
            inside.waiting.keys().next().copied()
        } else {
            None
        };
        let is_full = of_peer >= self.most_per_peer || inside.total >= self.most;
        match leaves.and_then(|id| inside.waiting.remove(&id)) {
            Some((_, evicted)) => evicted.notify_one(),
            None if is_full => return Admission::Full,
            None => {}
        }
        let id = inside.next;
        inside.next += 1;
        inside.total += 1;
        if let Some(peer) = peer {
            *inside.of_peer.entry(peer).or_default() += 1;
        }
        let evicted = Arc::new(Notify::new());
        inside.waiting.insert(id, (peer, evicted.clone()));
        let permit = ConnectionPermit { limiter: self.clone(), id, peer, evicted };
        if is_full { Admission::AdmittedByEviction(permit) } else { Admission::Admitted(permit) }
    }

    pub(super) fn inside(&self) -> usize {
        lock(&self.inside).total
    }

    /// Sends everybody away who was not let in.
    pub(super) fn clear(&self) {
        for (_, evicted) in std::mem::take(&mut lock(&self.inside).waiting).into_values() {
            evicted.notify_one();
        }
    }

    /// Waits until nobody is inside.
    pub(super) async fn emptied(&self) {
        loop {
            let notified = self.is_empty.notified();
            if self.inside() == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl ConnectionPermit {
    /// Its request was let in.
    pub(super) fn passed(&self) {
        lock(&self.limiter.inside).waiting.remove(&self.id);
    }

    /// Waits until it has to go.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut inside = lock(&self.limiter.inside);
        inside.waiting.remove(&self.id);
        inside.total -= 1;
        if let Some(peer) = self.peer
            && let Some(count) = inside.of_peer.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                inside.of_peer.remove(&peer);
            }
        }
        if inside.total == 0 {
            self.limiter.is_empty.notify_waiters();
        }
    }
}

/// An IPv6 peer has as many addresses as it likes, all in one network of 64 bits.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn come(limiter: &Arc<ConnectionLimiter>, peer: &str) -> Option<(ConnectionPermit, bool)> {
        match limiter.try_admit(Some(peer.parse().unwrap())) {
            Admission::Admitted(permit) => Some((permit, false)),
            Admission::AdmittedByEviction(permit) => Some((permit, true)),
            Admission::Full => None,
        }
    }

    fn is_evicted(permit: &ConnectionPermit) -> bool {
        let mut evicted = std::pin::pin!(permit.evicted());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::future::Future::poll(evicted.as_mut(), &mut cx).is_ready()
    }

    #[test]
    fn the_one_who_has_waited_longest_makes_room() {
        let limiter = Arc::new(ConnectionLimiter::new(3, 10));
        let (a, _) = come(&limiter, "10.0.0.1").unwrap();
        let (b, _) = come(&limiter, "10.0.0.2").unwrap();
        let (c, _) = come(&limiter, "10.0.0.3").unwrap();
        a.passed();
        let (d, instead) = come(&limiter, "10.0.0.4").unwrap();
        assert!(instead && is_evicted(&b) && !is_evicted(&a) && !is_evicted(&c));
        drop(b);
        for permit in [&c, &d] {
            permit.passed();
        }
        assert!(come(&limiter, "10.0.0.5").is_none(), "all who are inside were let in");
        drop(a);
        assert!(come(&limiter, "10.0.0.5").is_some());
    }

    #[test]
    fn one_peer_fills_its_own_share_and_no_more() {
        let limiter = Arc::new(ConnectionLimiter::new(10, 2));
        let (a, _) = come(&limiter, "2001:db8::1").unwrap();
        let (b, _) = come(&limiter, "2001:db8::2").unwrap();
        let (c, instead) = come(&limiter, "2001:db8::3").unwrap();
        assert!(instead && is_evicted(&a) && !is_evicted(&b));
        drop(a);
        b.passed();
        c.passed();
        assert!(come(&limiter, "2001:db8::4").is_none());
        assert!(come(&limiter, "2001:db8:0:1::4").is_some_and(|(_, instead)| !instead));
        assert_eq!(limiter.inside(), 2);
        drop((b, c));
        assert_eq!(limiter.inside(), 0);
        assert!(
            lock(&limiter.inside).of_peer.is_empty() && lock(&limiter.inside).waiting.is_empty()
        );
    }
}
