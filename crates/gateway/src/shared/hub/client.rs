//! What the hub knows about one client, and the memory that it holds for this client.

use std::collections::{BTreeSet, HashMap};

use tieline_proto::jsonrpc::CallId;

use super::name::Name;
use super::opening::Stage;

/// The number of bytes that are counted for each request and each open thing in addition to its names.
const EACH: usize = 256;
/// The held memory is reported whenever it crosses a multiple of this. The memory budget counts in the same
/// steps.
const STEP: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Client {
    pub(super) stage: Stage,
    /// The capabilities that the client has declared, as bits at the places of
    /// [`SharingRules::needs`](tieline_proto::jsonrpc::SharingRules::needs).
    pub(super) capabilities: u64,
    pub(super) level: Option<usize>,
    /// Requests that were sent to the program.
    pub(super) calls: BTreeSet<CallId>,
    /// The number of requests that wait in the hub.
    pub(super) waiting: usize,
    pub(super) waiting_bytes: usize,
    /// The size of the ids and tokens of its requests.
    pub(super) id_bytes: usize,
    /// The size of the responses that wait for the rest of their batches.
    pub(super) batch_bytes: usize,
    /// The things that it has open, or has asked the program to open.
    pub(super) things: HashMap<Name, Use>,
    /// The number of things that are open.
    pub(super) open: usize,
    /// The size of the names of all its things.
    pub(super) name_bytes: usize,
    /// The things that its requests wait for, with the number of these requests.
    pub(super) waits: HashMap<Name, usize>,
    pub(super) has_ended_input: bool,
    /// The last reported number of steps.
    reported: usize,
}

/// A client's use of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Opening,
    Open,
}

impl Client {
    /// Returns the number of bytes that the hub holds for this client.
    pub(super) fn held(&self) -> usize {
        let entries = self.calls.len() + self.waiting + self.things.len() + self.waits.len();
        let bytes = self.id_bytes + self.waiting_bytes + self.batch_bytes + self.name_bytes;
        bytes + EACH * entries
    }

    /// Returns the number of held bytes if it has changed enough to be reported to the memory budget.
    pub(super) fn changed(&mut self) -> Option<usize> {
        let held = self.held();
        let steps = held / STEP;
        (std::mem::replace(&mut self.reported, steps) != steps).then_some(held)
    }

    pub(super) fn add_thing(&mut self, name: &Name, how: Use) {
        match self.things.insert(name.clone(), how) {
            None => {
                self.name_bytes += name.len();
                self.open += usize::from(how == Use::Open);
            }
            Some(before) => {
                self.open += usize::from(how == Use::Open);
                self.open -= usize::from(before == Use::Open);
            }
        }
    }

    pub(super) fn remove_thing(&mut self, name: &Name) {
        if let Some(how) = self.things.remove(name) {
            self.name_bytes -= name.len();
            self.open -= usize::from(how == Use::Open);
        }
    }

    pub(super) fn begin_wait(&mut self, name: &Name) {
        *self.waits.entry(name.clone()).or_default() += 1;
    }

    pub(super) fn end_wait(&mut self, name: &Name) {
        if let Some(number) = self.waits.get_mut(name) {
            *number -= 1;
            if *number == 0 {
                self.waits.remove(name);
            }
        }
    }
}
