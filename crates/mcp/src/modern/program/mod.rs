//! A program on stdio that answers the requests of one client.
//!
//! Each request is a call with a number. The number is the request's id and its progress token in the
//! program, so that requests from several connections do not collide.

mod asking;
mod call;
mod from_legacy;
mod from_modern;
mod handshake;
mod legacy;
mod listening;
mod output;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Answers, Dialect, Message, classify, elements};
use tieline_proto::sse::Encoder;

use self::call::Call;
use self::handshake::Phase;
use self::legacy::Legacy;
use super::request::ModernRequest;
use super::schemas::ToolHeaders;
use super::{MODERN_VERSION, meta};
use crate::Refusal;

/// Limits on the requests of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModernLimits {
    /// The number of requests without a response; 1,024 by default.
    pub calls: usize,
    /// The number of bytes that may wait for the connection of one request; 1 MiB by default. With more,
    /// the request is canceled, because its client does not read. A response may be longer.
    pub waiting_bytes: usize,
    /// The number of bytes that may wait for the program before further requests have to wait; 1 MiB by
    /// default.
    pub outgoing_bytes: usize,
    /// How long a response may take until it becomes an event stream; 15 s by default.
    pub json_wait: Duration,
    /// How long a program may take to answer `server/discover` before it is sent `initialize`; 10 s by
    /// default.
    pub probe_wait: Duration,
    /// How long a program of an earlier version waits for the input of a client; 5 min by default.
    pub input_wait: Duration,
    /// How long a program without requests is kept; 5 min by default.
    pub idle: Duration,
}

impl Default for ModernLimits {
    fn default() -> Self {
        Self {
            calls: 1024,
            waiting_bytes: 1024 * 1024,
            outgoing_bytes: 1024 * 1024,
            json_wait: Duration::from_secs(15),
            probe_wait: Duration::from_secs(10),
            input_wait: Duration::from_secs(5 * 60),
            idle: Duration::from_secs(5 * 60),
        }
    }
}

/// The versions that a program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramEra {
    /// The versions up to 2025-11-25, with `initialize`.
    Legacy,
    /// The version 2026-07-28.
    Modern,
}

/// The response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModernAnswer {
    /// The response is not known yet. Call again when the call was touched, or at this time.
    Wait(Duration),
    /// A JSON object with this status.
    Json(u16, Bytes),
    /// An event stream.
    Events,
    /// The request must be posted again, to another program, because this one cannot take it.
    Elsewhere,
}

/// The next event of a request's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModernNext {
    /// An event was written.
    Event,
    /// There is no event yet.
    Wait,
    /// The stream has ended.
    End,
}

/// A function that returns texts that cannot be guessed, or `None` if the system provides no random
/// bytes.
type Tokens = Box<dyn FnMut() -> Option<String> + Send>;

/// A program on stdio, and the requests that it answers.
///
/// After each method that takes `&mut self`, pass the [outgoing](Self::outgoing) messages to the
/// program, and wake the connections of the [touched](Self::take_touched) calls.
pub struct ModernProgram {
    limits: ModernLimits,
    phase: Phase,
    legacy: Legacy,
    calls: BTreeMap<u64, Call>,
    /// The calls that were not passed to the program yet, oldest first.
    queued: VecDeque<u64>,
    /// The number of the next call, or of the next request that belongs to no call.
    next: u64,
    outgoing: VecDeque<Bytes>,
    outgoing_bytes: usize,
    /// The cost of all calls: the requests that wait for the program, and the events that wait for a
    /// connection.
    held: usize,
    touched: Vec<u64>,
    headers: ToolHeaders,
    last_use: Duration,
    lost: u64,
    tokens: Tokens,
}

impl fmt::Debug for ModernProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, calls, queued, .. } = self;
        f.debug_struct("ModernProgram")
            .field("phase", phase)
            .field("calls", &calls.len())
            .field("queued", &queued.len())
            .finish_non_exhaustive()
    }
}

/// The dialect of messages from programs, which may omit the version and may send batches.
const LENIENT: Dialect = {
    let mut lenient = Dialect::MCP_2025_03_26;
    lenient.version = false;
    lenient
};

impl ModernProgram {
    /// Creates the state of a program that has just been started. If its era is not known, the program
    /// is asked. `tokens` returns texts that cannot be guessed, or `None` if there are no random bytes.
    pub fn new(
        now: Duration,
        limits: ModernLimits,
        era: Option<ProgramEra>,
        headers: ToolHeaders,
        tokens: impl FnMut() -> Option<String> + Send + 'static,
    ) -> Self {
        let mut program = Self {
            limits,
            phase: Phase::Modern,
            legacy: Legacy::default(),
            calls: BTreeMap::new(),
            queued: VecDeque::new(),
            next: 1,
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            held: 0,
            touched: Vec::new(),
            headers,
            last_use: now,
            lost: 0,
            tokens: Box::new(tokens),
        };
        program.begin(now, era);
        program
    }

    /// Takes a request. Returns the number of its call.
    ///
    /// # Errors
    /// The request is not accepted. The refusal is the response to it.
    pub fn post(&mut self, now: Duration, request: &ModernRequest) -> Result<u64, Refusal> {
        self.try_post(now, request).map_err(|refusal| refusal.answering(request.id()))
    }

    fn try_post(&mut self, now: Duration, request: &ModernRequest) -> Result<u64, Refusal> {
        if self.is_over() {
            return Err(Refusal::new(502, "the program has ended"));
        }
        if self.calls.len() >= self.limits.calls {
            let text = "too many requests to the program have no response yet; try again later";
            return Err(Refusal::new(503, text));
        }
        self.headers.check(request)?;
        self.last_use = now;
        let number = self.number();
        let call = Call::new(request.clone(), now.saturating_add(self.limits.json_wait));
        self.held += call.held();
        self.calls.insert(number, call);
        self.queued.push_back(number);
        let resumed = match (&self.phase, request.state()) {
            (Phase::Legacy, Some(state)) => self.resume(now, number, &state),
            _ => Ok(()),
        };
        if let Err(refusal) = resumed {
            self.remove(number);
            return Err(refusal);
        }
        self.pump();
        Ok(number)
    }

    /// Returns whether another request may be posted. If not, wait until [`outgoing`](Self::outgoing) was
    /// called, or a call was closed.
    pub fn may_post(&self) -> bool {
        let requests = self.queued.iter().filter_map(|number| self.calls.get(number)?.request());
        let queued: usize = requests.map(ModernRequest::length).sum();
        self.is_over() || self.outgoing_bytes + queued < self.limits.outgoing_bytes
    }

    /// Returns whether another message of the program may be taken. If not, wait until
    /// [`outgoing`](Self::outgoing) was called.
    pub fn has_room(&self) -> bool {
        self.outgoing_bytes < self.limits.outgoing_bytes
    }

    /// Takes the next message for the program.
    pub fn outgoing(&mut self) -> Option<Bytes> {
        let message = self.outgoing.pop_front()?;
        self.outgoing_bytes -= message.len();
        Some(message)
    }

    /// Returns whether there is a message for the program.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Takes the numbers of the calls whose responses have changed.
    pub fn take_touched(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.touched)
    }

    /// Handles a message from the program.
    pub fn from_program(&mut self, now: Duration, message: Bytes) {
        match classify(message.clone(), &LENIENT, Limits::default()) {
            Message::Batch(_) => {
                for one in elements(&message).unwrap_or_default() {
                    let one = classify(one, &LENIENT, Limits::default());
                    self.take_one(now, one);
                }
            }
            one => self.take_one(now, one),
        }
        self.pump();
    }

    fn take_one(&mut self, now: Duration, message: Message) {
        match message {
            Message::Response(response) => {
                let number = match response.answers() {
                    Answers::Call(id) => number_of(id),
                    Answers::OnlyCall => self.only_call(),
                };
                let Some(number) = number else { return };
                if self.is_of_handshake(number) {
                    return self.handshake_answered(number, response.outcome());
                }
                match self.phase {
                    Phase::Modern => self.modern_response(number, &response),
                    Phase::Legacy => self.legacy_response(number, &response),
                    _ => {}
                }
            }
            Message::Request(request) => match self.phase {
                Phase::Legacy => self.asked(now, &request),
                _ => self.refuse_program(
                    request.id(),
                    "the protocol version has no requests of servers",
                ),
            },
            Message::Notification(notification) => match self.phase {
                Phase::Modern => self.modern_notification(&notification),
                Phase::Legacy => self.legacy_notification(&notification),
                _ => {}
            },
            Message::Invalid(invalid) => {
                for answers in invalid.answers() {
                    let number = match answers {
                        Answers::Call(id) => number_of(id),
                        Answers::OnlyCall => self.only_call(),
                    };
                    let Some(call) = number.and_then(|number| self.call_of(number)) else {
                        continue;
                    };
                    let text = invalid.instead_of_response();
                    self.fail(call, 200, INVALID_RESPONSE, &text);
                    self.settled(number.unwrap_or_default());
                }
            }
            Message::Batch(_) => {}
        }
    }

    /// Returns the number of the only call in the program, to which an error without an id belongs.
    fn only_call(&self) -> Option<u64> {
        let mut passed = self.calls.iter().filter(|(_, call)| call.is_in_flight());
        let (number, _) = passed.next()?;
        passed.next().is_none().then_some(*number)
    }

    /// Records that the line to the program has ended.
    pub fn ended(&mut self) {
        if self.phase.is_undecided() {
            // The program may have ended because of the `server/discover` request.
            self.phase = Phase::Over(Some(ProgramEra::Legacy));
            return self.send_elsewhere(|_| true);
        }
        let was_open = matches!(self.phase, Phase::Modern | Phase::Legacy);
        self.phase = Phase::Over(None);
        if was_open {
            // The program has not received these.
            self.send_elsewhere(|call| call.request().is_some());
        }
        let open: Vec<_> =
            self.calls.iter().filter(|(_, it)| it.is_open()).map(|(it, _)| *it).collect();
        for number in open {
            if !self.end_listening(number) {
                self.fail(number, 502, PROGRAM_ENDED, "the program ended without a response");
            }
        }
    }

    /// Marks the selected calls as calls that another program has to answer.
    fn send_elsewhere(&mut self, which: impl Fn(&Call) -> bool) {
        for (number, call) in &mut self.calls {
            if !call.is_done() && which(call) {
                call.is_elsewhere = true;
                self.touched.push(*number);
            }
        }
        let calls = &self.calls;
        self.queued.retain(|number| calls.get(number).is_some_and(|call| !call.is_elsewhere));
    }

    /// Returns the era of the program, once it is known.
    pub fn era(&self) -> Option<ProgramEra> {
        match self.phase {
            Phase::Modern => Some(ProgramEra::Modern),
            Phase::Legacy => Some(ProgramEra::Legacy),
            Phase::Over(era) => era,
            _ => None,
        }
    }

    /// Returns whether the program cannot be used any more, so that its line should be ended.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    /// Returns the response to a call.
    pub fn answer(&mut self, now: Duration, number: u64) -> ModernAnswer {
        self.update(number, |call| call.answer(now)).unwrap_or(ModernAnswer::Events)
    }

    /// Writes the next event of a call to `out`.
    pub fn next(&mut self, number: u64, out: &mut BytesMut) -> ModernNext {
        let event = self.update(number, Call::pop).flatten();
        match (event, self.calls.get(&number)) {
            (Some(event), _) => {
                if let Ok(encoder) = Encoder::default().event("message") {
                    // This cannot fail, because messages were parsed, so they are UTF-8.
                    let _ = encoder.data(&event, out);
                }
                ModernNext::Event
            }
            (None, Some(call)) if !call.is_done() && !call.is_elsewhere => ModernNext::Wait,
            (None, _) => ModernNext::End,
        }
    }

    /// Ends a call, because its response was delivered or its client has disconnected. If the program
    /// has not answered yet, the request is canceled.
    pub fn close(&mut self, now: Duration, number: u64) {
        self.last_use = now;
        if self.calls.get(&number).is_some_and(|call| !call.is_done()) {
            self.cancel(number);
        }
        self.remove(number);
        self.pump();
    }

    fn remove(&mut self, number: u64) {
        self.stop_listening(number);
        if let Some(call) = self.calls.remove(&number) {
            self.held -= call.held();
            self.lost += call.waiting();
        }
        self.queued.retain(|it| *it != number);
    }

    /// Returns the number of bytes that are held.
    pub fn held_bytes(&self) -> usize {
        self.held + self.outgoing_bytes + self.legacy.held()
    }

    /// Returns how many messages were dropped before a client received them.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns the time at which to call [`expire`](Self::expire) next.
    pub fn deadline(&self) -> Option<Duration> {
        let is_idle = self.calls.is_empty() && !self.legacy.is_waiting();
        let idle = is_idle.then(|| self.last_use.saturating_add(self.limits.idle));
        [self.phase.deadline(), self.legacy.deadline(), idle].into_iter().flatten().min()
    }

    /// Handles the timeouts that have passed.
    pub fn expire(&mut self, now: Duration) {
        if self.phase.deadline().is_some_and(|at| at <= now) {
            self.probe_expired();
        }
        if self.legacy.deadline().is_some_and(|at| at <= now) {
            self.expire_turn(now);
        }
        self.pump();
        let idle_until = self.last_use.saturating_add(self.limits.idle);
        if self.calls.is_empty() && !self.legacy.is_waiting() && idle_until <= now {
            self.phase = Phase::Over(self.era());
        }
    }

    /// Ends the call with the most bytes, because there is too little memory. Returns whether there was one.
    pub fn shed(&mut self) -> bool {
        let largest = self.calls.iter().filter(|(_, call)| call.held() > 0);
        let Some((number, _)) = largest.max_by_key(|(_, call)| call.held()) else { return false };
        self.give_up(*number);
        true
    }

    /// Passes queued calls to the program, if it may receive them.
    fn pump(&mut self) {
        match self.phase {
            Phase::Modern => {
                while let Some(number) = self.queued.pop_front() {
                    self.pass_to_modern(number);
                }
            }
            Phase::Legacy => self.pump_legacy(),
            _ => {}
        }
    }

    /// Changes a call, and updates the cost of all calls.
    fn update<R>(&mut self, number: u64, change: impl FnOnce(&mut Call) -> R) -> Option<R> {
        let call = self.calls.get_mut(&number)?;
        let before = call.held();
        let result = change(call);
        self.held = self.held + call.held() - before;
        Some(result)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

/// Parses the id of a request to the program, which is a number.
fn number_of(id: &[u8]) -> Option<u64> {
    std::str::from_utf8(id).ok()?.parse().ok()
}

/// Writes the `_meta` of messages to programs of the modern era that belong to no call.
fn envelope() -> Vec<u8> {
    let version = super::json::quoted(MODERN_VERSION);
    super::json::object([
        (meta::PROTOCOL_VERSION, version.as_bytes()),
        (meta::CLIENT_CAPABILITIES, b"{}"),
    ])
}

/// The code of the error for a request that the program did not answer before it ended.
const PROGRAM_ENDED: i64 = -31000;
/// The code of the error for an invalid response of the program.
const INVALID_RESPONSE: i64 = -31001;

#[cfg(test)]
mod tests;
