//! The queue of one subscription: bounded by messages and bytes, with a gap wherever messages were lost.
//! No I/O.

use std::collections::VecDeque;

use tieline_proto::ByteSize;

/// The bounds of a subscription's queue. An empty queue accepts one message of any permitted size.
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

/// A queue with the values of type `T`.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    limits: QueueLimits,
    entries: VecDeque<Entry<T>>,
    messages: usize,
    bytes: usize,
    /// The number of messages that were dropped before the first entry.
    lost_first: u64,
}

#[derive(Debug)]
enum Entry<T> {
    Message(T, usize),
    Gap(u64),
    /// Something that is not a message, and does not count towards the limits.
    Notice(T),
}

/// What a queue returns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Popped<T> {
    Value(T),
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

impl<T> Queue<T> {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self { limits, entries: VecDeque::new(), messages: 0, bytes: 0, lost_first: 0 }
    }

    /// Returns whether a message of this size fits.
    pub(crate) fn has_room(&self, size: usize) -> bool {
        self.messages == 0
            || (self.messages < self.limits.messages
                && self.bytes.saturating_add(size) <= self.limits.bytes.bytes())
    }

    /// Adds a message. If it does not fit, messages are dropped: the oldest ones, or this one.
    pub(crate) fn push(&mut self, value: T, size: usize, drops_oldest: bool) -> Pushed<T> {
        let mut pushed = Pushed::Queued;
        if !self.has_room(size) {
            if !drops_oldest {
                self.mark_gap(1);
                return Pushed::Dropped(value);
            }
            let mut dropped = Vec::new();
            while !self.has_room(size) {
                dropped.extend(self.drop_oldest());
            }
            pushed = Pushed::Replaced(dropped);
        }
        self.messages += 1;
        self.bytes += size;
        self.entries.push_back(Entry::Message(value, size));
        pushed
    }

    /// Adds a notice, which is not a message. The caller bounds their number.
    pub(crate) fn notify(&mut self, notice: T) {
        self.entries.push_back(Entry::Notice(notice));
    }

    /// Adds a gap at the end.
    fn mark_gap(&mut self, lost: u64) {
        match self.entries.back_mut() {
            Some(Entry::Gap(before)) => *before += lost,
            Some(_) => self.entries.push_back(Entry::Gap(lost)),
            None => self.lost_first += lost,
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Popped<T>> {
        if self.lost_first > 0 {
            return Some(Popped::Gap(std::mem::take(&mut self.lost_first)));
        }
        match self.entries.pop_front()? {
            Entry::Message(value, size) => {
                self.forget(size);
                Some(Popped::Value(value))
            }
            Entry::Notice(value) => Some(Popped::Value(value)),
            Entry::Gap(lost) => Some(Popped::Gap(lost)),
        }
    }

    /// Removes the first message for which `is_it` returns true.
    pub(crate) fn remove(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let is_it = |entry: &Entry<T>| matches!(entry, Entry::Message(value, _) if is_it(value));
        let place = self.entries.iter().position(is_it)?;
        let Some(Entry::Message(value, size)) = self.entries.remove(place) else { return None };
        self.forget(size);
        Some(value)
    }

    /// Removes everything, and returns the messages.
    pub(crate) fn clear(&mut self) -> Vec<T> {
        (self.messages, self.bytes, self.lost_first) = (0, 0, 0);
        let messages = std::mem::take(&mut self.entries).into_iter();
        messages
            .filter_map(|it| if let Entry::Message(it, _) = it { Some(it) } else { None })
            .collect()
    }

    /// Returns the messages in order.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &T> {
        (self.entries.iter())
            .filter_map(|it| if let Entry::Message(it, _) = it { Some(it) } else { None })
    }

    fn forget(&mut self, size: usize) {
        self.messages -= 1;
        self.bytes -= size;
    }

    /// Drops the oldest message. The gaps before it are joined with the gap that it leaves.
    fn drop_oldest(&mut self) -> Option<T> {
        let mut notices = Vec::new();
        let mut dropped = None;
        while let Some(entry) = self.entries.pop_front() {
            match entry {
                Entry::Gap(lost) => self.lost_first += lost,
                Entry::Notice(_) => notices.push(entry),
                Entry::Message(value, size) => {
                    self.forget(size);
                    self.lost_first += 1;
                    dropped = Some(value);
                    break;
                }
            }
        }
        notices.into_iter().rev().for_each(|it| self.entries.push_front(it));
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tieline_testkit::random::Random;

    fn drain(queue: &mut Queue<u64>) -> Vec<Popped<u64>> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    fn queue(messages: usize, bytes: usize) -> Queue<u64> {
        Queue::new(QueueLimits { messages, bytes: ByteSize::new(bytes) })
    }

    #[test]
    fn gaps_are_where_messages_were_lost() {
        use Popped::{Gap, Value};
        let mut oldest = queue(2, 100);
        (0..5).for_each(|it| drop(oldest.push(it, 1, true)));
        assert_eq!(drain(&mut oldest), [Gap(3), Value(3), Value(4)]);

        let mut newest = queue(2, 100);
        (0..5).for_each(|it| drop(newest.push(it, 1, false)));
        assert_eq!(newest.pop(), Some(Value(0)));
        assert_eq!(newest.push(5, 1, false), Pushed::Queued);
        assert_eq!(drain(&mut newest), [Value(1), Gap(3), Value(5)]);
    }

    #[test]
    fn bytes_are_bounded_and_one_large_message_fits() {
        let mut queue = queue(10, 10);
        assert_eq!(queue.push(0, 1000, false), Pushed::Queued);
        assert_eq!(queue.push(1, 0, false), Pushed::Dropped(1));
        assert_eq!(queue.push(2, 4, true), Pushed::Replaced(vec![0]));
        assert_eq!(queue.push(3, 6, true), Pushed::Queued);
        assert_eq!(queue.push(4, 11, true), Pushed::Replaced(vec![2, 3]));
        assert_eq!(drain(&mut queue), [Popped::Gap(4), Popped::Value(4)]);
    }

    #[test]
    fn notices_are_kept_and_do_not_count() {
        let mut queue = queue(1, 10);
        queue.notify(100);
        assert_eq!(queue.push(0, 1, true), Pushed::Queued);
        queue.notify(101);
        assert_eq!(queue.push(1, 1, true), Pushed::Replaced(vec![0]));
        assert_eq!(queue.remove(|it| *it == 100), None);
        let expected = [Popped::Gap(1), Popped::Value(100), Popped::Value(101), Popped::Value(1)];
        assert_eq!(drain(&mut queue), expected);
    }

    /// A naive queue: all messages ever published, and whether each was dropped.
    #[test]
    fn random_steps_agree_with_a_naive_list() {
        let seed = 7_319;
        println!("seed {seed}");
        let mut random = Random::new(seed);
        for drops_oldest in [true, false] {
            let mut queue = queue(8, 64);
            // (value, size, kept), up to the reader's position.
            let mut model: Vec<(u64, usize, bool)> = Vec::new();
            for step in 0..200_000_u64 {
                let waiting: Vec<usize> = (0..model.len()).filter(|it| model[*it].2).collect();
                let bytes: usize = waiting.iter().map(|it| model[*it].1).sum();
                if random.percent(60) {
                    let size = random.below(40) as usize;
                    let fits = |count: usize, bytes: usize| {
                        count == 0 || (count < 8 && bytes + size <= 64)
                    };
                    let (mut count, mut bytes) = (waiting.len(), bytes);
                    let mut first = waiting.iter();
                    while drops_oldest && !fits(count, bytes) {
                        let oldest = &mut model[*first.next().unwrap()];
                        oldest.2 = false;
                        (count, bytes) = (count - 1, bytes - oldest.1);
                    }
                    model.push((step, size, fits(count, bytes)));
                    queue.push(step, size, drops_oldest);
                } else {
                    let lost = model.iter().take_while(|it| !it.2).count();
                    let expected = match lost {
                        0 if model.is_empty() => None,
                        0 => Some(Popped::Value(model.remove(0).0)),
                        _ => {
                            model.drain(..lost);
                            Some(Popped::Gap(lost as u64))
                        }
                    };
                    assert_eq!(queue.pop(), expected, "step {step}");
                }
            }
        }
    }
}
