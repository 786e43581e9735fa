//! The queue of one subscription: bounded by messages and bytes, with a gap wherever messages were lost.
//! No I/O.

use std::collections::VecDeque;

use tieline_proto::ByteSize;

/// The maximum number of items that a reader takes from the queue at once.
pub(crate) const MAX_TAKEN: usize = 32;

/// The size of messages after which a reader takes no more at once.
const MAX_TAKEN_BYTES: usize = 64 << 10;

/// The bounds of a subscription's queue. An empty queue accepts one message of any permitted size.
///
/// The subscription takes up to 32 messages out of the queue when it reads, which then no longer count and
/// are not dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// The maximum number of messages; 256 by default. 0 is treated as 1.
    pub messages: usize,
    /// The maximum size of all messages together; 4 MiB by default.
    pub bytes: ByteSize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { messages: 256, bytes: ByteSize::mib(4) }
    }
}

/// What happens to a message that is published while the queue of a subscription is full. Requests wait in
/// every case, unless another subscription takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The publisher waits until the queue has room. A subscriber that stops reading stops its publishers.
    Block,
    /// The oldest messages are dropped, and the subscriber receives a gap in their place.
    #[default]
    DropOldest,
    /// The message is dropped, and the subscriber receives a gap in its place.
    DropNewest,
    /// The message is dropped, and the subscription ends after what is in its queue and a gap.
    Disconnect,
}

/// A message, of which a queue knows only the size.
pub(crate) trait Weighed {
    /// Returns the size in bytes.
    fn size(&self) -> usize;
}

/// A queue with messages of type `T` and notices of type `N`, which are not messages and do not count.
#[derive(Debug)]
pub(crate) struct Queue<T, N> {
    limits: QueueLimits,
    items: Taken<T, N>,
    messages: usize,
    bytes: usize,
}

/// Items in the order in which they are returned.
#[derive(Debug)]
pub(crate) struct Taken<T, N> {
    /// The number of messages that were lost before the first item.
    lost_first: u64,
    items: VecDeque<Item<T, N>>,
}

/// What a queue returns. Notices are boxed to keep the queues of messages small.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<T, N> {
    Message(T),
    Notice(Box<N>),
    /// The number of messages that were lost here.
    Gap(u64),
}

/// What has happened to a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed<T> {
    Queued,
    /// These older messages were dropped for it.
    Replaced(Vec<T>),
    /// This message was dropped.
    Dropped(T),
}

impl<T, N> Default for Taken<T, N> {
    fn default() -> Self {
        Self { lost_first: 0, items: VecDeque::new() }
    }
}

impl<T, N> Taken<T, N> {
    pub(crate) fn pop(&mut self) -> Option<Item<T, N>> {
        if self.lost_first > 0 {
            return Some(Item::Gap(std::mem::take(&mut self.lost_first)));
        }
        self.items.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.lost_first == 0
    }
}

impl<T: Weighed, N> Queue<T, N> {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self { limits, items: Taken::default(), messages: 0, bytes: 0 }
    }

    /// Returns whether a message of this size fits.
    pub(crate) fn has_room(&self, size: usize) -> bool {
        self.messages == 0
            || (self.messages < self.limits.messages
                && self.bytes.saturating_add(size) <= self.limits.bytes.bytes())
    }

    /// Adds a message. If it does not fit, messages are dropped: the oldest ones, or this one.
    pub(crate) fn push(&mut self, message: T, drops_oldest: bool) -> Pushed<T> {
        let size = message.size();
        let mut pushed = Pushed::Queued;
        if !self.has_room(size) {
            if !drops_oldest {
                self.mark_gap(1);
                return Pushed::Dropped(message);
            }
            let mut dropped = Vec::new();
            while !self.has_room(size) {
                dropped.extend(self.drop_oldest());
            }
            pushed = Pushed::Replaced(dropped);
        }
        self.messages += 1;
        self.bytes += size;
        self.items.items.push_back(Item::Message(message));
        pushed
    }

    /// Adds a gap at the end.
    pub(crate) fn mark_gap(&mut self, lost: u64) {
        match self.items.items.back_mut() {
            Some(Item::Gap(before)) => *before = before.saturating_add(lost),
            Some(_) => self.items.items.push_back(Item::Gap(lost)),
            None => self.items.lost_first = self.items.lost_first.saturating_add(lost),
        }
    }

    /// Adds a notice. The caller bounds their number.
    pub(crate) fn notify(&mut self, notice: N) {
        self.items.items.push_back(Item::Notice(Box::new(notice)));
    }

    /// Moves the first items, so that the reader seldom needs the lock: at most 32, and no further ones after
    /// 64 KiB of messages. `into` must be empty.
    pub(crate) fn take(&mut self, into: &mut Taken<T, N>) {
        let most = MAX_TAKEN - usize::from(self.items.lost_first > 0);
        if self.items.items.len() <= most && self.bytes <= MAX_TAKEN_BYTES {
            (self.messages, self.bytes) = (0, 0);
            return std::mem::swap(into, &mut self.items);
        }
        into.lost_first = std::mem::take(&mut self.items.lost_first);
        let before = self.bytes;
        while into.items.len() < most && before - self.bytes < MAX_TAKEN_BYTES {
            let Some(item) = self.items.items.pop_front() else { return };
            if let Item::Message(message) = &item {
                self.forget(message.size());
            }
            into.items.push_back(item);
        }
    }

    /// Removes the first message for which `is_it` returns true.
    pub(crate) fn remove(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let is_it = |item: &Item<T, N>| matches!(item, Item::Message(it) if is_it(it));
        let place = self.items.items.iter().position(is_it)?;
        let Some(Item::Message(message)) = self.items.items.remove(place) else { return None };
        self.forget(message.size());
        Some(message)
    }

    /// Removes everything, and returns the messages.
    pub(crate) fn clear(&mut self) -> Vec<T> {
        (self.messages, self.bytes) = (0, 0);
        let items = std::mem::take(&mut self.items).items.into_iter();
        items.filter_map(|it| if let Item::Message(it) = it { Some(it) } else { None }).collect()
    }

    /// Returns the messages in order.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &T> {
        let items = self.items.items.iter();
        items.filter_map(|it| if let Item::Message(it) = it { Some(it) } else { None })
    }

    fn forget(&mut self, size: usize) {
        self.messages -= 1;
        self.bytes -= size;
    }

    /// Drops the oldest message. The gaps before it are joined with the gap that it leaves.
    fn drop_oldest(&mut self) -> Option<T> {
        let mut notices = Vec::new();
        let mut dropped = None;
        while let Some(item) = self.items.items.pop_front() {
            match item {
                Item::Gap(lost) => self.items.lost_first += lost,
                Item::Notice(_) => notices.push(item),
                Item::Message(message) => {
                    self.forget(message.size());
                    self.items.lost_first += 1;
                    dropped = Some(message);
                    break;
                }
            }
        }
        notices.into_iter().rev().for_each(|it| self.items.items.push_front(it));
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number, and the size of its message.
    type Numbered = (u64, usize);

    impl Weighed for Numbered {
        fn size(&self) -> usize {
            self.1
        }
    }

    type Numbers = Queue<Numbered, u64>;

    fn drain(queue: &mut Numbers) -> Vec<Item<u64, u64>> {
        let mut taken = Taken::default();
        std::iter::from_fn(|| {
            if taken.is_empty() {
                queue.take(&mut taken);
            }
            Some(match taken.pop()? {
                Item::Message((number, _)) => Item::Message(number),
                Item::Notice(number) => Item::Notice(number),
                Item::Gap(lost) => Item::Gap(lost),
            })
        })
        .collect()
    }

    fn queue(messages: usize, bytes: usize) -> Numbers {
        Queue::new(QueueLimits { messages, bytes: ByteSize::new(bytes) })
    }

    #[test]
    fn gaps_are_where_messages_were_lost() {
        use Item::{Gap, Message};
        let mut oldest = queue(2, 100);
        (0..5).for_each(|it| drop(oldest.push((it, 1), true)));
        assert_eq!(drain(&mut oldest), [Gap(3), Message(3), Message(4)]);

        let mut newest = queue(2, 100);
        (0..5).for_each(|it| drop(newest.push((it, 1), false)));
        assert_eq!(newest.remove(|it| it.0 == 0), Some((0, 1)));
        assert_eq!(newest.push((5, 1), false), Pushed::Queued);
        assert_eq!(drain(&mut newest), [Message(1), Gap(3), Message(5)]);
    }

    #[test]
    fn bytes_are_bounded_and_one_large_message_fits() {
        let mut queue = queue(10, 10);
        assert_eq!(queue.push((0, 1000), false), Pushed::Queued);
        assert_eq!(queue.push((1, 0), false), Pushed::Dropped((1, 0)));
        assert_eq!(queue.push((2, 4), true), Pushed::Replaced(vec![(0, 1000)]));
        assert_eq!(queue.push((3, 6), true), Pushed::Queued);
        assert_eq!(queue.push((4, 11), true), Pushed::Replaced(vec![(2, 4), (3, 6)]));
        assert_eq!(drain(&mut queue), [Item::Gap(4), Item::Message(4)]);
    }

    #[test]
    fn notices_are_kept_and_do_not_count() {
        let mut queue = queue(1, 10);
        queue.notify(100);
        assert_eq!(queue.push((0, 1), true), Pushed::Queued);
        queue.notify(101);
        assert_eq!(queue.push((1, 1), true), Pushed::Replaced(vec![(0, 1)]));
        assert_eq!(queue.remove(|it| it.0 == 100), None);
        let expected =
            [Item::Gap(1), Item::Notice(100.into()), Item::Notice(101.into()), Item::Message(1)];
        assert_eq!(drain(&mut queue), expected);
    }

    #[test]
    fn a_reader_takes_a_bounded_part_of_a_long_queue() {
        let mut queue = queue(100, 10 << 20);
        (0..100).for_each(|it| drop(queue.push((it, 1), true)));
        queue.push((100, 1), true);
        let mut taken = Taken::default();
        queue.take(&mut taken);
        assert_eq!((taken.lost_first, taken.items.len(), queue.messages), (1, MAX_TAKEN - 1, 69));
        let numbers: Vec<_> = drain(&mut queue);
        assert_eq!((numbers.len(), &numbers[68]), (69, &Item::Message(100)));

        (0..4).for_each(|it| drop(queue.push((it, 40 << 10), true)));
        let mut taken = Taken::default();
        queue.take(&mut taken);
        assert_eq!((taken.items.len(), queue.messages), (2, 2));
    }
}
