//! How many messages of one subscription are between the broker's queue and the reader. No I/O.

use crate::queue::QueueLimits;

/// The messages that were sent, and that the reader is not known to have taken.
#[derive(Debug)]
pub(super) struct Window {
    limits: QueueLimits,
    messages: u64,
    bytes: u64,
}

impl Window {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self { limits, messages: 0, bytes: 0 }
    }

    /// Returns whether another message may be sent, whatever its size.
    pub(super) fn is_open(&self) -> bool {
        self.messages == 0
            || (self.messages < self.limits.messages as u64
                && self.bytes < self.limits.bytes.bytes() as u64)
    }

    pub(super) fn sent(&mut self, size: usize) {
        self.messages += 1;
        self.bytes += size as u64;
    }

    /// Returns false if more was taken than was sent.
    pub(super) fn taken(&mut self, messages: u64, bytes: u64) -> bool {
        match (self.messages.checked_sub(messages), self.bytes.checked_sub(bytes)) {
            (Some(messages), Some(bytes)) => {
                (self.messages, self.bytes) = (messages, bytes);
                true
            }
            _ => false,
        }
    }

    /// Returns whether the reader must report what it has taken, so that the window does not close: half of
    /// it.
    pub(super) fn is_due(&self, messages: u64, bytes: u64) -> bool {
        messages * 2 >= self.limits.messages as u64 || bytes * 2 >= self.limits.bytes.bytes() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tieline_proto::ByteSize;
    use tieline_testkit::random::Random;

    #[test]
    fn window_never_stays_closed_and_bounds_what_is_under_way() {
        let seed = 404;
        println!("seed {seed}");
        let mut random = Random::new(seed);
        for (messages, bytes) in [(1, 1), (1, 100), (2, 10), (5, 50), (256, 1000)] {
            let limits = QueueLimits { messages, bytes: ByteSize::new(bytes) };
            let (mut broker, mut reader) = (Window::new(limits), Window::new(limits));
            let (mut queue, mut taken) = (Vec::new(), (0, 0));
            for _ in 0..10_000 {
                if broker.is_open() && random.percent(60) {
                    let size = random.below(200) as usize;
                    assert!(reader.is_open());
                    broker.sent(size);
                    reader.sent(size);
                    queue.push(size as u64);
                } else if !queue.is_empty() {
                    taken = (taken.0 + 1, taken.1 + queue.remove(0));
                    if reader.is_due(taken.0, taken.1) {
                        assert!(reader.taken(taken.0, taken.1) && broker.taken(taken.0, taken.1));
                        taken = (0, 0);
                    }
                }
                assert!(!queue.is_empty() || broker.is_open());
                assert!(queue.len() <= messages);
            }
            assert!(!broker.taken(1 << 40, 0) && !broker.taken(0, 1 << 40));
        }
    }
}
