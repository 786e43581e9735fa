//! Limits the number of connections. When the limit is reached, the oldest connection without an admitted
//! request is closed, so that idle connections cannot keep out new ones.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::lock::lock;

/// A limit on the number of connections, in total and for each peer.
pub(super) struct ConnectionLimiter {
    inside: Mutex<Inside>,
    max: usize,
    max_per_peer: usize,
    /// Notified when the last connection ends.
    is_empty: Notify,
}

#[derive(Default)]
struct Inside {
    next: u64,
    total: usize,
    of_peer: HashMap<IpAddr, usize>,
    /// Connections without an admitted request, oldest first.
    waiting: BTreeMap<u64, (Option<IpAddr>, Arc<Notify>)>,
}

/// One connection's place in the limit. Dropping it releases the place.
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    pub(super) id: u64,
    peer: Option<IpAddr>,
    evicted: Arc<Notify>,
}

/// The result of [`ConnectionLimiter::try_admit`].
pub(super) enum Admission {
    Admitted(ConnectionPermit),
    /// The connection is admitted, and another one is closed to make room.
    AdmittedByEviction(ConnectionPermit),
    Full,
}

impl ConnectionLimiter {
    pub(super) fn new(max: usize, max_per_peer: usize) -> Self {
        let (inside, is_empty) = (Mutex::default(), Notify::new());
        Self { inside, max, max_per_peer, is_empty }
    }

    /// Admits a connection from `peer`. Without an address, only the total limit applies.
    pub(super) fn try_admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Admission {
        let peer = peer.map(network);
        let mut inside = lock(&self.inside);
        let of_peer = peer.map_or(0, |peer| inside.of_peer.get(&peer).copied().unwrap_or_default());
        let evictee = if of_peer >= self.max_per_peer {
            let oldest = inside.waiting.iter().find(|(_, (known, _))| *known == peer);
            oldest.map(|(id, _)| *id)
        } else if inside.total >= self.max {
            inside.waiting.keys().next().copied()
        } else {
            None
        };
        let is_full = of_peer >= self.max_per_peer || inside.total >= self.max;
        match evictee.and_then(|id| inside.waiting.remove(&id)) {
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

    /// Closes all connections without an admitted request.
    pub(super) fn clear(&self) {
        for (_, evicted) in std::mem::take(&mut lock(&self.inside).waiting).into_values() {
            evicted.notify_one();
        }
    }

    /// Waits until all connections have ended.
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
    /// Records that a request of the connection was admitted, so that the connection is no longer
    /// evicted.
    pub(super) fn passed(&self) {
        lock(&self.limiter.inside).waiting.remove(&self.id);
    }

    /// Waits until the connection has to be closed.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut inside = lock(&self.limiter.inside);
        inside.waiting.remove(&self.id);
        inside.total -= 1;
        if let Some(Entry::Occupied(mut count)) = self.peer.map(|peer| inside.of_peer.entry(peer)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if inside.total == 0 {
            self.limiter.is_empty.notify_waiters();
        }
    }
}

/// Maps an IPv6 address to its /64 network, because a peer can use all addresses in it.
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

    fn admit(limiter: &Arc<ConnectionLimiter>, peer: &str) -> Option<(ConnectionPermit, bool)> {
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
    fn oldest_connection_without_request_is_evicted() {
        let limiter = Arc::new(ConnectionLimiter::new(3, 10));
        let (a, _) = admit(&limiter, "10.0.0.1").unwrap();
        let (b, _) = admit(&limiter, "10.0.0.2").unwrap();
        let (c, _) = admit(&limiter, "10.0.0.3").unwrap();
        a.passed();
        let (d, by_eviction) = admit(&limiter, "10.0.0.4").unwrap();
        assert!(by_eviction && is_evicted(&b) && !is_evicted(&a) && !is_evicted(&c));
        drop(b);
        for permit in [&c, &d] {
            permit.passed();
        }
        assert!(admit(&limiter, "10.0.0.5").is_none(), "all connections have admitted requests");
        drop(a);
        assert!(admit(&limiter, "10.0.0.5").is_some());
    }

    #[test]
    fn one_peer_cannot_exceed_its_share() {
        let limiter = Arc::new(ConnectionLimiter::new(10, 2));
        let (a, _) = admit(&limiter, "2001:db8::1").unwrap();
        let (b, _) = admit(&limiter, "2001:db8::2").unwrap();
        let (c, by_eviction) = admit(&limiter, "2001:db8::3").unwrap();
        assert!(by_eviction && is_evicted(&a) && !is_evicted(&b));
        drop(a);
        b.passed();
        c.passed();
        assert!(admit(&limiter, "2001:db8::4").is_none());
        assert!(admit(&limiter, "2001:db8:0:1::4").is_some_and(|(_, by_eviction)| !by_eviction));
        assert_eq!(limiter.inside(), 2);
        drop((b, c));
        assert_eq!(limiter.inside(), 0);
        assert!(
            lock(&limiter.inside).of_peer.is_empty() && lock(&limiter.inside).waiting.is_empty()
        );
    }
}
