//! Which clients the last input of the program came from, so that unread input is attributed to them.

use std::collections::{HashMap, VecDeque};

use super::hub::ClientId;

/// More than a pipe and the queue in front of it hold.
const MAX_BYTES: usize = 32 * 1024 * 1024;
const MAX_ENTRIES: usize = 16 * 1024;

/// The last messages to the program, the oldest first: who sent them, and their size.
#[derive(Default)]
pub(super) struct Ledger {
    entries: VecDeque<(Option<ClientId>, usize)>,
    bytes: usize,
}

impl Ledger {
    /// Adds a message. `None`: it is the hub's own.
    pub(super) fn add(&mut self, from: Option<ClientId>, bytes: usize) {
        self.bytes += bytes;
        match self.entries.back_mut() {
            Some((last, size)) if *last == from => *size += bytes,
            _ => self.entries.push_back((from, bytes)),
        }
        while let Some((_, oldest)) = self.entries.front() {
            if self.entries.len() <= MAX_ENTRIES && self.bytes - oldest < MAX_BYTES {
                break;
            }
            self.bytes -= oldest;
            self.entries.pop_front();
        }
    }

    /// Returns how many of the last `unread` bytes came from each client.
    pub(super) fn last(&self, mut unread: usize) -> HashMap<ClientId, usize> {
        let mut shares = HashMap::new();
        for (from, bytes) in self.entries.iter().rev() {
            let share = unread.min(*bytes);
            if let (Some(client), 1..) = (from, share) {
                *shares.entry(*client).or_default() += share;
            }
            unread -= share;
        }
        shares
    }
}
