//! How many are inside. When it is full, whoever has stood in the door for longest without being let in
//! goes, so that many who say nothing keep nobody out who says something.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::channel::lock;

/// Counts connections.
pub(super) struct Door {
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
pub(super) struct Visit {
    door: Arc<Door>,
    pub(super) id: u64,
    peer: Option<IpAddr>,
    evicted: Arc<Notify>,
}

/// What came of somebody's wish to come in.
pub(super) enum Answer {
    Come(Visit),
    /// Somebody else had to go.
    ComeInstead(Visit),
    Full,
}

impl Door {
    pub(super) fn new(most: usize, most_per_peer: usize) -> Self {
        let (inside, is_empty) = (Mutex::default(), Notify::new());
        Self { inside, most, most_per_peer, is_empty }
    }

    /// Takes a connection of `peer`; one without an address counts only in all.
    pub(super) fn knock(self: &Arc<Self>, peer: Option<IpAddr>) -> Answer {
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
            None if is_full => return Answer::Full,
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
        let visit = Visit { door: self.clone(), id, peer, evicted };
        if is_full { Answer::ComeInstead(visit) } else { Answer::Come(visit) }
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

impl Visit {
    /// Its request was let in.
    pub(super) fn passed(&self) {
        lock(&self.door.inside).waiting.remove(&self.id);
    }

    /// Waits until it has to go.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut inside = lock(&self.door.inside);
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
            self.door.is_empty.notify_waiters();
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

    fn come(door: &Arc<Door>, peer: &str) -> Option<(Visit, bool)> {
        match door.knock(Some(peer.parse().unwrap())) {
            Answer::Come(visit) => Some((visit, false)),
            Answer::ComeInstead(visit) => Some((visit, true)),
            Answer::Full => None,
        }
    }

    fn is_evicted(visit: &Visit) -> bool {
        let mut evicted = std::pin::pin!(visit.evicted());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::future::Future::poll(evicted.as_mut(), &mut cx).is_ready()
    }

    #[test]
    fn the_one_who_has_waited_longest_makes_room() {
        let door = Arc::new(Door::new(3, 10));
        let (a, _) = come(&door, "10.0.0.1").unwrap();
        let (b, _) = come(&door, "10.0.0.2").unwrap();
        let (c, _) = come(&door, "10.0.0.3").unwrap();
        a.passed();
        let (d, instead) = come(&door, "10.0.0.4").unwrap();
        assert!(instead && is_evicted(&b) && !is_evicted(&a) && !is_evicted(&c));
        drop(b);
        for visit in [&c, &d] {
            visit.passed();
        }
        assert!(come(&door, "10.0.0.5").is_none(), "all who are inside were let in");
        drop(a);
        assert!(come(&door, "10.0.0.5").is_some());
    }

    #[test]
    fn one_peer_fills_its_own_share_and_no_more() {
        let door = Arc::new(Door::new(10, 2));
        let (a, _) = come(&door, "2001:db8::1").unwrap();
        let (b, _) = come(&door, "2001:db8::2").unwrap();
        let (c, instead) = come(&door, "2001:db8::3").unwrap();
        assert!(instead && is_evicted(&a) && !is_evicted(&b));
        drop(a);
        b.passed();
        c.passed();
        assert!(come(&door, "2001:db8::4").is_none());
        assert!(come(&door, "2001:db8:0:1::4").is_some_and(|(_, instead)| !instead));
        assert_eq!(door.inside(), 2);
        drop((b, c));
        assert_eq!(door.inside(), 0);
        assert!(lock(&door.inside).of_peer.is_empty() && lock(&door.inside).waiting.is_empty());
    }
}
