//! The queues between the lines of the clients and the driver of their program, around the hub.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tieline_proto::Fault;
use tieline_transport::{
    Account, ChildExit, CloseReason, Holding, Incoming, MemoryBudget, SendError,
};

use super::hub::{ClientId, Hub, Output};
use super::ledger::Ledger;
use crate::lock::{lock, remember};

/// How many messages from one client may wait for the program before the client has to wait.
const INPUT_MESSAGES: usize = 16;
/// How many bytes of these messages may wait. A single message may exceed this.
const INPUT_BYTES: usize = 256 * 1024;
/// How many bytes of each direction the driver handles at once. A single message may exceed this.
pub(super) const TURN_BYTES: usize = 256 * 1024;
/// How many bytes of messages may wait for one client. Beyond that the client is disconnected, so that
/// the others need not wait for it.
const OUTPUT_BYTES: usize = 64 * 1024 * 1024;
/// The memory that a message uses in addition to its bytes.
const EACH: usize = 256;
/// How many of the hub's own messages may wait for a program that does not read before refusals are
/// dropped.
const OWN_MESSAGES: usize = 1024;

/// The state that the ports of the clients and the driver share.
pub(super) struct Exchange(Mutex<State>);

struct State {
    hub: Hub,
    ports: BTreeMap<ClientId, Queues>,
    /// The hub's messages to the program. Messages of clients are handled only when the program has
    /// room.
    to_program: VecDeque<(Option<ClientId>, Bytes)>,
    /// The client whose message is being handled.
    serving: Option<ClientId>,
    ledger: Ledger,
    /// Clients that have messages for the program. They are served in turn, one message each.
    waiting: VecDeque<ClientId>,
    /// No further client can join.
    is_closed: bool,
    /// The program has ended by itself, with a failure.
    has_failed: bool,
    memory: Option<MemoryBudget>,
    /// The memory that all clients share: the hub's messages to the program, and what the hub holds for
    /// all of them.
    account: Account,
    to_program_bytes: usize,
    /// There was too little memory for it.
    refused: Option<CloseReason>,
    /// Messages of and for the program that were not passed on.
    lost: Arc<AtomicU64>,
    driver: Option<Waker>,
}

/// The queues of one client.
struct Queues {
    input: VecDeque<Bytes>,
    input_bytes: usize,
    is_input_ended: bool,
    /// The client is among those that wait to be served.
    is_waiting: bool,
    sender: Option<Waker>,
    output: VecDeque<Bytes>,
    output_cost: usize,
    /// The number of bytes that the hub holds for the client.
    in_hub: usize,
    /// The client's share of the input that the program has not read, if the reason does not contain it.
    unwritten: usize,
    account: Account,
    receiver: Option<Waker>,
    /// Why nothing follows the queued output.
    end: Option<CloseReason>,
}

/// Returns the reason with this share of the unread input, if it has such a number.
fn with_unread(reason: &CloseReason, share: usize) -> Option<CloseReason> {
    match reason {
        CloseReason::ChildExited(exit) if exit.unread.is_some() => {
            let unread = Some(share as u64);
            Some(CloseReason::ChildExited(Arc::new(ChildExit { unread, ..(**exit).clone() })))
        }
        _ => None,
    }
}

fn wake(waker: &mut Option<Waker>) {
    waker.take().into_iter().for_each(Waker::wake);
}

impl Queues {
    /// Queues a message for the client. Returns the reason if the client has to be disconnected instead.
    fn push(&mut self, message: Bytes) -> Result<(), CloseReason> {
        let cost = self.output_cost + message.len() + EACH;
        // An empty queue takes a message of any length.
        if cost > OUTPUT_BYTES && !self.output.is_empty() {
            return Err(CloseReason::Overrun);
        }
        self.account.set(cost + self.input_bytes + self.in_hub)?;
        self.output_cost = cost;
        self.output.push_back(message);
        wake(&mut self.receiver);
        Ok(())
    }

    fn held(&self) -> usize {
        self.output_cost + self.input_bytes + self.in_hub
    }

    /// Counts what the hub holds for the client.
    fn set_in_hub(&mut self, bytes: usize) -> Result<(), CloseReason> {
        let is_more = bytes > self.in_hub;
        self.in_hub = bytes;
        match self.account.set(self.held()) {
            Err(refused) if is_more => Err(refused.into()),
            _ => Ok(()),
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let message = self.output.pop_front()?;
        self.output_cost -= message.len() + EACH;
        // Lowering cannot fail, except if the line has to end anyway, which `check` reports.
        let _ = self.account.set(self.held());
        Some(message)
    }

    /// Queues a message from the client.
    fn push_input(&mut self, message: Bytes) -> Result<(), CloseReason> {
        self.account.set(self.held() + message.len())?;
        self.input_bytes += message.len();
        self.input.push_back(message);
        Ok(())
    }

    fn pop_input(&mut self) -> Option<Bytes> {
        let message = self.input.pop_front()?;
        self.input_bytes -= message.len();
        let _ = self.account.set(self.held());
        Some(message)
    }

    /// Drops all messages, because there is no memory for them.
    fn clear(&mut self) {
        (self.output, self.input) = (VecDeque::new(), VecDeque::new());
        (self.output_cost, self.input_bytes, self.in_hub) = (0, 0, 0);
        let _ = self.account.set(0);
    }

    fn finish(&mut self, reason: CloseReason) {
        self.end.get_or_insert(reason);
        wake(&mut self.sender);
        wake(&mut self.receiver);
    }
}

impl Exchange {
    /// Creates an exchange. `lost` counts the messages that are not passed on.
    pub(super) fn new(hub: Hub, memory: Option<MemoryBudget>, lost: Arc<AtomicU64>) -> Arc<Self> {
        let state = State {
            hub,
            ports: BTreeMap::new(),
            to_program: VecDeque::new(),
            serving: None,
            ledger: Ledger::default(),
            waiting: VecDeque::new(),
            is_closed: false,
            has_failed: false,
            account: Account::of(memory.as_ref(), Holding::Queue),
            to_program_bytes: 0,
            refused: None,
            lost,
            memory,
            driver: None,
        };
        Arc::new(Self(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Adds a client, or returns `None` if the program is ending or has ended.
    pub(super) fn join(&self) -> Option<ClientId> {
        let mut state = self.lock();
        if state.is_closed {
            return None;
        }
        let client = state.hub.join();
        let queues = Queues {
            input: VecDeque::new(),
            input_bytes: 0,
            is_input_ended: false,
            is_waiting: false,
            sender: None,
            output: VecDeque::new(),
            output_cost: 0,
            in_hub: 0,
            unwritten: 0,
            account: Account::of(state.memory.as_ref(), Holding::Queue),
            receiver: None,
            end: None,
        };
        state.ports.insert(client, queues);
        state.settle();
        Some(client)
    }

    /// Removes a client.
    pub(super) fn leave(&self, client: ClientId) {
        let mut state = self.lock();
        if state.ports.remove(&client).is_some() {
            state.hub.leave(client);
            state.settle();
            wake(&mut state.driver);
        }
    }

    /// Polls until the client's next message has room.
    pub(super) fn poll_ready(
        &self,
        client: ClientId,
        cx: &Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        self.poll_input(client, cx, INPUT_MESSAGES, INPUT_BYTES)
    }

    /// Polls until the driver has taken all messages from the client.
    pub(super) fn poll_taken(
        &self,
        client: ClientId,
        cx: &Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        self.poll_input(client, cx, 1, usize::MAX)
    }

    /// Polls until fewer than `most` messages from the client wait, with less than `bytes`.
    fn poll_input(
        &self,
        client: ClientId,
        cx: &Context<'_>,
        most: usize,
        bytes: usize,
    ) -> Poll<Result<(), SendError>> {
        let mut state = self.lock();
        let Some(queues) = state.ports.get_mut(&client) else {
            return Poll::Ready(Err(SendError::Closed(Box::new(CloseReason::ByUs))));
        };
        if let Some(reason) = &queues.end {
            return Poll::Ready(Err(SendError::Closed(Box::new(reason.clone()))));
        }
        if queues.input.len() < most && queues.input_bytes < bytes {
            return Poll::Ready(Ok(()));
        }
        remember(&mut queues.sender, cx.waker());
        Poll::Pending
    }

    /// Queues a message from the client for the program.
    pub(super) fn push(&self, client: ClientId, message: Bytes) -> Result<(), SendError> {
        let mut state = self.lock();
        match state.ports.get_mut(&client) {
            Some(queues) if queues.end.is_none() && !queues.is_input_ended => {
                if let Err(reason) = queues.push_input(message) {
                    queues.clear();
                    queues.finish(reason.clone());
                    return Err(SendError::Closed(Box::new(reason)));
                }
                state.wait(client);
                Ok(())
            }
            Some(Queues { end: Some(reason), .. }) => {
                Err(SendError::Closed(Box::new(reason.clone())))
            }
            _ => Err(SendError::Closed(Box::new(CloseReason::ByUs))),
        }
    }

    /// Ends the client's input.
    pub(super) fn end_input(&self, client: ClientId) {
        let mut state = self.lock();
        let Some(queues) = state.ports.get_mut(&client) else { return };
        if !std::mem::replace(&mut queues.is_input_ended, true) {
            state.wait(client);
        }
    }

    /// Polls for the next message to the client.
    pub(super) fn poll_output(&self, client: ClientId, cx: &Context<'_>) -> Poll<Incoming> {
        let mut state = self.lock();
        let Some(queues) = state.ports.get_mut(&client) else {
            return Poll::Ready(Incoming::End(CloseReason::ByUs));
        };
        if let Err(refused) = queues.account.check(cx.waker()) {
            queues.clear();
            queues.finish(refused.into());
        }
        if let Some(message) = queues.pop() {
            return Poll::Ready(Incoming::Message(message));
        }
        if let Some(reason) = &queues.end {
            return Poll::Ready(Incoming::End(reason.clone()));
        }
        remember(&mut queues.receiver, cx.waker());
        Poll::Pending
    }

    /// Registers the driver, and returns up to `most` messages for the program.
    pub(super) fn for_program(&self, most: usize, cx: &Context<'_>) -> VecDeque<Bytes> {
        let mut state = self.lock();
        remember(&mut state.driver, cx.waker());
        let (mut messages, mut bytes) = (VecDeque::new(), 0);
        while messages.len() < most && bytes < TURN_BYTES {
            match state.to_program.pop_front() {
                Some((from, message)) => {
                    state.to_program_bytes -= message.len() + EACH;
                    // A line has one more byte.
                    state.ledger.add(from, message.len() + 1);
                    bytes += message.len();
                    messages.push_back(message);
                }
                None if state.serve_next() => {}
                None => break,
            }
        }
        state.count_shared();
        messages
    }

    /// Handles messages from the program.
    pub(super) fn handle(&self, messages: impl IntoIterator<Item = FromProgram>) {
        let mut state = self.lock();
        for message in messages {
            match message {
                FromProgram::Message(message) => state.hub.program_message(message),
                FromProgram::Fault(fault) => state.hub.lost(&fault),
                FromProgram::Refused(message, why) => state.hub.not_sent(&message, &why),
            }
            state.settle();
        }
        if !state.to_program.is_empty() {
            wake(&mut state.driver);
        }
    }

    /// Returns why the program has to end: too much memory is in use. If that happens later, the driver is
    /// woken.
    pub(super) fn refused(&self, cx: &Context<'_>) -> Option<CloseReason> {
        let state = self.lock();
        let revoked = state.account.check(cx.waker()).err();
        state.refused.clone().or(revoked.map(CloseReason::from))
    }

    /// Counts messages of or for the program that are not passed on.
    pub(super) fn lose(&self, messages: usize) {
        self.lock().lost.fetch_add(messages as u64, Relaxed);
    }

    /// Returns whether the program has no client.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().ports.is_empty()
    }

    /// Stops admitting clients; with `if_idle`, only if there are none. Returns whether no more clients
    /// are admitted.
    pub(super) fn close(&self, if_idle: bool) -> bool {
        let mut state = self.lock();
        state.is_closed |= !if_idle || state.ports.is_empty();
        state.is_closed
    }

    /// Returns whether the program has ended by itself, with a failure.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().has_failed
    }

    /// Records that the program has ended by itself, with a failure.
    pub(super) fn failed(&self) {
        self.lock().has_failed = true;
    }

    /// Ends the lines of all clients, because the program has ended. `unwritten` bytes of its input were taken
    /// and not written to it. Each client gets its share of what was not read.
    pub(super) fn end(&self, reason: &CloseReason, unwritten: usize) {
        let mut state = self.lock();
        state.is_closed = true;
        let in_pipe = reason.child_exit().and_then(|exit| exit.unread).unwrap_or_default();
        let in_pipe = usize::try_from(in_pipe).unwrap_or(usize::MAX);
        let shares = state.ledger.last(in_pipe.saturating_add(unwritten));
        for (client, queues) in &mut state.ports {
            if queues.end.is_some() {
                continue;
            }
            let share = shares.get(client).copied().unwrap_or_default();
            match with_unread(reason, share) {
                Some(reason) => queues.finish(reason),
                None => {
                    queues.unwritten = share;
                    queues.finish(reason.clone());
                }
            }
        }
    }

    /// Returns how many bytes of the client's input the program has not been given, or did not read although its
    /// exit does not say so.
    pub(super) fn unwritten(&self, client: ClientId) -> usize {
        self.lock().ports.get(&client).map_or(0, |it| it.input_bytes + it.unwritten)
    }
}

/// An item that the driver hands to the hub.
pub(super) enum FromProgram {
    Message(Bytes),
    Fault(Fault),
    /// A message that the program's line cannot carry, and why.
    Refused(Bytes, String),
}

impl State {
    /// Adds a client to those that wait to be served.
    fn wait(&mut self, client: ClientId) {
        let Some(queues) = self.ports.get_mut(&client) else { return };
        if !std::mem::replace(&mut queues.is_waiting, true) {
            self.waiting.push_back(client);
        }
        wake(&mut self.driver);
    }

    /// Hands the next client's message, or the end of its input, to the hub. Returns false if there is none.
    fn serve_next(&mut self) -> bool {
        let Some(client) = self.waiting.pop_front() else { return false };
        // A client that has left is skipped.
        let Some(queues) = self.ports.get_mut(&client) else { return true };
        let message = queues.pop_input();
        queues.is_waiting =
            !queues.input.is_empty() || (message.is_some() && queues.is_input_ended);
        if queues.is_waiting {
            self.waiting.push_back(client);
        }
        wake(&mut queues.sender);
        match message {
            Some(message) => self.hub.client_message(client, message),
            None => self.hub.input_ended(client),
        }
        self.serving = Some(client);
        self.settle();
        self.serving = None;
        true
    }

    /// Moves the hub's output into the queues.
    fn settle(&mut self) {
        while let Some(output) = self.hub.output() {
            match output {
                Output::Program(message) => self.push_to_program(message),
                Output::Refusal(message) if self.to_program.len() < OWN_MESSAGES => {
                    self.push_to_program(message);
                }
                Output::Refusal(_) => {
                    self.lost.fetch_add(1, Relaxed);
                    tracing::debug!(
                        "dropped a response for the program: it does not read its input"
                    );
                }
                Output::Client(client, message) => {
                    let Some(queues) = self.ports.get_mut(&client) else { continue };
                    if queues.end.is_some() {
                        continue;
                    }
                    if let Err(reason) = queues.push(message) {
                        self.disconnect(client, reason);
                    }
                }
                Output::Held(client, bytes) => {
                    let Some(queues) = self.ports.get_mut(&client) else { continue };
                    if queues.end.is_some() {
                        continue;
                    }
                    if let Err(reason) = queues.set_in_hub(bytes) {
                        self.disconnect(client, reason);
                    }
                }
                Output::Done(client) => {
                    if let Some(queues) = self.ports.get_mut(&client) {
                        queues.finish(CloseReason::ByPeer);
                    }
                }
            }
        }
        self.count_shared();
    }

    fn push_to_program(&mut self, message: Bytes) {
        self.to_program_bytes += message.len() + EACH;
        self.to_program.push_back((self.serving, message));
    }

    /// Counts the memory that all clients share. If there is too little, the program ends.
    fn count_shared(&mut self) {
        if let Err(refused) = self.account.set(self.to_program_bytes + self.hub.held()) {
            self.refused.get_or_insert(refused.into());
            wake(&mut self.driver);
        }
    }

    /// Ends the line of a client that lets too much wait for it.
    fn disconnect(&mut self, client: ClientId, reason: CloseReason) {
        let Some(queues) = self.ports.get_mut(&client) else { return };
        let messages = queues.output.len();
        tracing::warn!(messages, "a client of a shared program is disconnected: {reason}");
        if !matches!(reason, CloseReason::Overrun) {
            queues.clear();
        }
        queues.finish(reason);
        self.hub.leave(client);
    }
}

#[cfg(test)]
mod tests;
