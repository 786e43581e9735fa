//! The state of a line whose dialect is known, and the gateway's handling of its messages.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tieline_proto::jsonrpc::{
    Dialect, DialectState, Handshake, INTERNAL_ERROR, INVALID_REQUEST, Invalid, InvalidProblem,
    Message, Outline, PARSE_ERROR, write_error, write_response,
};
use tieline_proto::{FAULT_HEAD, Fault, FrameError};
use tieline_transport::{Incoming, WarnThrottle};

use crate::gateway_messages::GatewayMessages;
use crate::line_memory::{LineMemory, MemoryPart};
use crate::lock::lock;
use crate::restore::{Record, Replay, ReplayStep};
use crate::side::Side;
use crate::unanswered::{MAX_BYTES, MAX_CALLS, Unanswered};

/// The state of one line whose dialect is known.
pub(crate) struct Dialogue {
    dialect: Dialect,
    /// Whether the client's process IDs mean nothing to the program.
    is_foreign: bool,
    unanswered: Unanswered,
    asked_by_program: Mutex<AskedByProgram>,
    /// The recorder, which exists only for dialects whose state can be restored.
    recorder: Option<Recorder>,
    replay: Mutex<Option<Replay>>,
    is_replaying: AtomicBool,
    client_has_sent: AtomicBool,
    pub(crate) to_near: Arc<GatewayMessages>,
    pub(crate) to_far: Arc<GatewayMessages>,
    not_json: WarnThrottle,
}

/// The program's requests that the client has not answered.
#[derive(Default)]
struct AskedByProgram {
    waiting: HashSet<Bytes>,
    /// Requests from a program that has ended: their responses are not for the new program.
    stale: HashSet<Bytes>,
    /// The total length of the ids in both sets.
    bytes: usize,
    held: MemoryPart,
}

impl AskedByProgram {
    /// Records a request. Requests beyond the bound are ignored, and not cancelled when the program ends.
    fn insert(&mut self, id: &[u8]) {
        let count = self.waiting.len() + self.stale.len();
        if count < MAX_CALLS
            && self.bytes + id.len() <= MAX_BYTES
            && self.waiting.insert(Bytes::copy_from_slice(id))
        {
            self.bytes += id.len();
            self.hold();
        }
    }

    fn hold(&mut self) {
        let ids = self.waiting.len() + self.stale.len();
        self.held.set(self.bytes + ids * EACH_ID);
    }

    fn answered(&mut self, id: &[u8]) {
        if self.waiting.remove(id) {
            self.bytes -= id.len();
            self.hold();
        }
    }

    /// Returns whether a response with this id is for a program that has ended, and forgets the id.
    fn take_stale(&mut self, id: &[u8]) -> bool {
        let is_stale = self.stale.remove(id);
        if is_stale {
            self.bytes -= id.len();
            self.hold();
        }
        is_stale
    }
}

/// Keeps the record of a line up to date.
struct Recorder {
    rules: &'static Handshake,
    /// The record, and the memory that it uses.
    record: Mutex<(Record, MemoryPart)>,
    /// Whether a response may change the record.
    is_awaited: AtomicBool,
}

impl Recorder {
    fn new(rules: &'static Handshake, held: Option<&Arc<LineMemory>>) -> Self {
        let record = Mutex::new((Record::new(rules), MemoryPart::of(held)));
        Self { rules, record, is_awaited: AtomicBool::new(false) }
    }

    /// Records a message from this side that is passed on.
    fn passed(&self, from: Side, seen: &Message) {
        let concerns = match seen {
            Message::Request(request) => Record::concerns(self.rules, &request.method()),
            Message::Notification(it) => Record::concerns(self.rules, &it.method()),
            Message::Response(_) => self.is_awaited.load(Relaxed),
            Message::Batch(_) => true,
            Message::Invalid(_) => false,
        };
        if concerns {
            let (record, held) = &mut *lock(&self.record);
            match from {
                Side::Client => record.record_client(seen),
                Side::Server => record.record_program(seen),
            }
            self.is_awaited.store(record.awaits_answer(), Relaxed);
            held.set(record.bytes());
        }
    }
}

/// The decision about a message.
pub(crate) enum Verdict {
    /// Pass the message on.
    Pass(Message),
    /// Pass this on instead.
    Changed(Bytes, Message),
    /// Count the message as lost, and pass this on instead.
    Instead(Bytes, String),
    /// Count the message as lost, and send this response to its sender.
    Answer(Bytes, String),
    /// Count the message as lost.
    Drop(String),
}

/// How the call that a lost message belongs to was settled.
pub(crate) enum Settled {
    /// The sender of the message received an error response.
    Answered,
    /// This message is to be passed on instead.
    Instead(Bytes),
    /// Nothing was settled, because the message is neither a call nor a response.
    Not,
}

impl Dialogue {
    /// Creates the state of a line. The memory that it uses is counted in `held`.
    pub(crate) fn new(dialect: Dialect, is_foreign: bool, held: Option<&Arc<LineMemory>>) -> Self {
        let rules = match dialect.state {
            DialectState::Handshake(rules) => Some(rules),
            _ => None,
        };
        Self {
            dialect,
            is_foreign,
            unanswered: Unanswered::new(dialect).within(held),
            asked_by_program: Mutex::new(AskedByProgram {
                held: MemoryPart::of(held),
                ..AskedByProgram::default()
            }),
            recorder: rules.map(|rules| Recorder::new(rules, held)),
            replay: Mutex::new(None),
            is_replaying: AtomicBool::new(false),
            client_has_sent: AtomicBool::new(false),
            to_near: Arc::new(GatewayMessages::within(held)),
            to_far: Arc::new(GatewayMessages::within(held)),
            not_json: WarnThrottle::new(|count| {
                tracing::warn!(count, "the program wrote more output that is not JSON");
            }),
        }
    }

    /// Records a request from the client that cannot be delivered any more, so that it is answered.
    /// Returns whether it is a message or a fault.
    pub(crate) fn undelivered(&self, incoming: &Incoming) -> bool {
        self.unanswered.arrived(incoming)
    }

    /// Returns the client's requests that wait for a response.
    pub(crate) fn requests(&self) -> &Unanswered {
        &self.unanswered
    }

    /// Returns the client's requests that the gateway has to answer if the program ends; `None` if the dialect
    /// does not allow it to add messages.
    pub(crate) fn unanswered(&self) -> Option<&Unanswered> {
        self.dialect.adds_messages.then_some(&self.unanswered)
    }

    /// Decides what to do with a message from this side.
    pub(crate) fn judge(&self, from: Side, message: &Bytes) -> Verdict {
        let seen = self.unanswered.classify(message);
        match (&seen, from) {
            (Message::Invalid(invalid), _) => {
                self.judge_invalid(from, message, invalid).unwrap_or(Verdict::Pass(seen))
            }
            (Message::Response(response), Side::Client)
                if lock(&self.asked_by_program).take_stale(response.id()) =>
            {
                Verdict::Drop("it responds to a program that has ended".into())
            }
            (Message::Request(request), Side::Client) if self.is_foreign => {
                match self.dialect.without_process_id(request) {
                    Some(changed) => {
                        let changed = Bytes::from(changed);
                        let seen = self.unanswered.classify(&changed);
                        Verdict::Changed(changed, seen)
                    }
                    None => Verdict::Pass(seen),
                }
            }
            (Message::Response(response), Side::Server) if self.dialect.adds_messages => {
                match self.unanswered.find(response.answers()) {
                    // The program may have written the id differently, such as 1.0 for 1.
                    Some(id) => {
                        let outcome = response.outcome();
                        let message = write_response(&self.dialect, &id, outcome).into();
                        let seen = self.unanswered.classify(&message);
                        Verdict::Changed(message, seen)
                    }
                    None => Verdict::Pass(seen),
                }
            }
            _ => Verdict::Pass(seen),
        }
    }

    fn judge_invalid(&self, from: Side, message: &[u8], invalid: &Invalid) -> Option<Verdict> {
        let why = invalid.problem().to_string();
        let outline = Outline::of(message);
        match invalid.problem() {
            InvalidProblem::Json(error) if !error.is_limit() => {
                // The program itself responds to a client that sends invalid JSON.
                let Side::Server = from else { return None };
                if let Some(unreported) = self.not_json.admit(Instant::now()) {
                    let start = message.get(..SHOWN).unwrap_or(message).escape_ascii();
                    tracing::warn!(
                        unreported,
                        "the program wrote output that is not JSON ({why}): {start}"
                    );
                }
                return Some(self.lost_answer(&outline, &why).map_or_else(
                    || Verdict::Drop(why.clone()),
                    |answer| Verdict::Instead(answer, why.clone()),
                ));
            }
            InvalidProblem::Json(_) | InvalidProblem::Doubled("id" | "method") => {}
            _ => return None,
        }
        if !self.dialect.adds_messages {
            return None;
        }
        let refusal =
            |id: &[u8]| write_error(&self.dialect, id, INVALID_REQUEST, &why, None).into();
        Some(match (from, outline.id()) {
            (_, Some(id)) if outline.is_call() => Verdict::Answer(refusal(id), why.clone()),
            // A batch has no single id.
            (Side::Client, _) if !outline.is_object() => {
                Verdict::Answer(refusal(b"null"), why.clone())
            }
            (_, None) if outline.is_call() => Verdict::Drop(why),
            (Side::Client, Some(id)) => Verdict::Instead(self.lost_outcome(id, &why), why.clone()),
            (Side::Client, None) => Verdict::Drop(why),
            (Side::Server, _) => match self.lost_answer(&outline, &why) {
                Some(answer) => Verdict::Instead(answer, why),
                None => Verdict::Drop(why),
            },
        })
    }

    /// Settles the call of a message that was lost on its way to the gateway. Returns the message to
    /// send to the other side instead. An error response to the sender itself is sent by this function.
    pub(crate) async fn lost(&self, from: Side, fault: &Fault) -> Option<Bytes> {
        self.lost_message(from, fault.head(), fault.to_string()).await
    }

    /// Works like [`lost`](Self::lost), for a message that begins with `start` or is equal to it.
    pub(crate) async fn lost_message(
        &self,
        from: Side,
        start: &[u8],
        why: String,
    ) -> Option<Bytes> {
        if !self.dialect.adds_messages {
            return None;
        }
        let outline = Outline::of(start);
        if outline.is_call() {
            let id = outline.id()?;
            let refusal = write_error(&self.dialect, id, INVALID_REQUEST, &why, None);
            self.send_own(from, refusal.into()).await;
            return None;
        }
        match from {
            Side::Server => self.lost_answer(&outline, &why),
            Side::Client => {
                let id = outline.id().filter(|_| outline.may_be_answer())?;
                lock(&self.asked_by_program).answered(id);
                Some(self.lost_outcome(id, &why))
            }
        }
    }

    /// Settles the call of a complete message that the other side's line cannot carry.
    pub(crate) async fn settle(&self, from: Side, message: &Bytes, why: String) -> Settled {
        if !self.dialect.adds_messages {
            return Settled::Not;
        }
        let is_not_json = match self.unanswered.classify(message) {
            Message::Invalid(invalid) => invalid.code() == PARSE_ERROR,
            _ => false,
        };
        if is_not_json && matches!(from, Side::Client) {
            // Text that is not JSON cannot be matched to a call, so the client gets a parse error
            // without an id.
            let text = format!("the message cannot be passed on: {why}");
            let refusal = write_error(&self.dialect, b"null", PARSE_ERROR, &text, None);
            self.send_own(from, refusal.into()).await;
            return Settled::Answered;
        }
        let start = message.get(..FAULT_HEAD).unwrap_or(message);
        let outline = Outline::of(start);
        let is_answered = outline.is_call() && outline.id().is_some();
        match self.lost_message(from, start, why).await {
            Some(instead) => Settled::Instead(instead),
            None if is_answered => Settled::Answered,
            None => Settled::Not,
        }
    }

    /// Sends the client an error response without an id, because it broke its framing.
    pub(crate) fn client_broke_framing(&self, error: &FrameError) {
        if self.dialect.adds_messages {
            let text = error.to_string();
            let refusal = write_error(&self.dialect, b"null", INVALID_REQUEST, &text, None);
            self.to_near.try_push(refusal.into());
        }
    }

    /// Sends a message of the gateway itself to this side.
    pub(crate) async fn send_own(&self, side: Side, message: Bytes) {
        match side {
            Side::Client => {
                poll_fn(|cx| self.to_near.poll_room(cx)).await;
                self.to_near.push(message);
            }
            // Waiting here would block the output of a program that does not read its input.
            Side::Server if self.to_far.try_push(message) => {}
            Side::Server => {
                tracing::debug!("dropped an error response for the program: its queue is full");
            }
        }
    }

    /// Returns an error response for the client in place of a lost one, if a request waits for it.
    fn lost_answer(&self, outline: &Outline<'_>, why: &str) -> Option<Bytes> {
        if !self.dialect.adds_messages || !outline.may_be_answer() {
            return None;
        }
        let id = self.unanswered.settle(outline.id(), outline.has_outcome())?;
        let text = format!("the response was lost: {why}");
        Some(write_error(&self.dialect, &id, INTERNAL_ERROR, &text, None).into())
    }

    /// Returns an error response for the program in place of a lost one from the client.
    fn lost_outcome(&self, id: &[u8], why: &str) -> Bytes {
        let text = format!("the client's response was lost: {why}");
        write_error(&self.dialect, id, INTERNAL_ERROR, &text, None).into()
    }

    /// Records a message from this side that is passed on.
    pub(crate) fn passed(&self, from: Side, seen: &Message) {
        match from {
            Side::Client => {
                self.client_has_sent.store(true, Relaxed);
                self.unanswered.asked(seen);
            }
            Side::Server => self.unanswered.answered(seen),
        }
        self.note_program_requests(from, seen);
        if let Some(recorder) = &self.recorder {
            recorder.passed(from, seen);
        }
    }

    fn note_program_requests(&self, from: Side, seen: &Message) {
        match (from, seen) {
            (Side::Server, Message::Request(request)) => {
                let mut asked = lock(&self.asked_by_program);
                if self.dialect.cancel.is_some_and(|cancel| cancel.code.is_none()) {
                    // In such a dialect a cancelled request gets no response, so its id may be used again.
                    asked.take_stale(request.id());
                }
                asked.insert(request.id());
            }
            (Side::Client, Message::Response(response)) => {
                lock(&self.asked_by_program).answered(response.id());
            }
            (_, Message::Batch(messages)) => {
                messages.iter().for_each(|it| self.note_program_requests(from, it));
            }
            _ => {}
        }
    }

    /// Starts to restore the state of a program or session that was replaced. Messages from the client
    /// wait until that is done.
    ///
    /// # Errors
    /// Returns why the state cannot be restored.
    pub(crate) fn restarted(&self, is_session: bool) -> Result<(), String> {
        self.cancel_stale();
        self.to_far.close_gate();
        self.stop_replay(None);
        match self.dialect.state {
            DialectState::Handshake(_) => {}
            // A restarted program is the same program, but a new session may lead to another one.
            DialectState::Unknown if !is_session => {}
            _ if !self.client_has_sent.load(Relaxed) => {}
            _ => {
                return Err(format!(
                    "the dialect {} does not support restoring state",
                    self.dialect.name
                ));
            }
        }
        let Some(Recorder { rules, record, .. }) = &self.recorder else {
            self.to_far.open_gate();
            return Ok(());
        };
        let plan = lock(record).0.restarted();
        match Replay::of(plan, self.dialect, rules)? {
            None => self.to_far.open_gate(),
            Some((replay, first)) => {
                tracing::info!("replaying the handshake to the restarted program");
                self.to_far.push(first);
                self.stop_replay(Some(replay));
            }
        }
        Ok(())
    }

    fn stop_replay(&self, next: Option<Replay>) {
        self.is_replaying.store(next.is_some(), Relaxed);
        *lock(&self.replay) = next;
    }

    /// Cancels the requests from the program that has ended, and marks them as stale.
    fn cancel_stale(&self) {
        let mut asked = lock(&self.asked_by_program);
        let AskedByProgram { waiting, stale, bytes, .. } = &mut *asked;
        for id in waiting.drain() {
            if let Some(cancel) =
                self.dialect.cancellation(&id).filter(|_| self.dialect.adds_messages)
            {
                self.to_near.try_push(cancel.into());
            }
            let length = id.len();
            if !stale.insert(id) {
                *bytes -= length;
            }
        }
        asked.hold();
    }

    /// Returns whether the client's messages wait for the handshake with the new program.
    pub(crate) fn is_opening(&self) -> bool {
        self.is_replaying.load(Relaxed)
            && lock(&self.replay).as_ref().is_some_and(Replay::is_opening)
    }

    /// Handles a message from the program during the replay. Returns whether the message is for the
    /// client.
    ///
    /// # Errors
    /// Returns why the state cannot be restored.
    pub(crate) fn handle_during_replay(&self, message: &Bytes) -> Result<bool, String> {
        if !self.is_replaying.load(Relaxed) {
            return Ok(true);
        }
        let seen = self.unanswered.classify(message);
        let mut place = lock(&self.replay);
        let Some(replay) = &mut *place else { return Ok(true) };
        let step = replay.handle(&seen);
        if replay.is_done() {
            *place = None;
            self.is_replaying.store(false, Relaxed);
        }
        drop(place);
        match step {
            ReplayStep::Pass => return Ok(true),
            ReplayStep::Swallowed => {}
            ReplayStep::Answer(answer) => drop(self.to_far.try_push(answer)),
            ReplayStep::Opened(messages) => {
                messages.into_iter().for_each(|it| self.to_far.push(it));
                self.to_far.open_gate();
            }
            ReplayStep::Failed(why) => return Err(why),
        }
        Ok(false)
    }
}

/// The memory that an id uses in addition to its bytes.
const EACH_ID: usize = 2 * size_of::<Bytes>();

/// How many bytes of output that is not JSON are logged.
const SHOWN: usize = 200;
