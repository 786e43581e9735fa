//! What the gateway knows, and does, on a line whose dialect it knows.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tieline_proto::jsonrpc::{
    Dialect, Handshake, INTERNAL_ERROR, INVALID_REQUEST, Invalid, InvalidProblem, Message, Outline,
    PARSE_ERROR, State, write_error, write_response,
};
use tieline_proto::{FAULT_HEAD, Fault, FrameError};
use tieline_transport::WarnThrottle;

use crate::held::{Held, Part};
use crate::own::Own;
use crate::pump::Side;
use crate::restore::{Heard, Record, Replay};
use crate::unanswered::{MOST, MOST_BYTES, Unanswered};

/// One line whose dialect is known.
pub(crate) struct Dialogue {
    dialect: Dialect,
    /// The program does not see the processes that the client sees.
    is_foreign: bool,
    unanswered: Unanswered,
    asked_by_program: Mutex<AskedByProgram>,
    rules: Option<&'static Handshake>,
    record: Option<Mutex<Record>>,
    record_held: Mutex<Part>,
    /// An answer may concern the record.
    is_awaited: AtomicBool,
    replay: Mutex<Option<Replay>>,
    is_replaying: AtomicBool,
    client_has_spoken: AtomicBool,
    pub(crate) to_near: Arc<Own>,
    pub(crate) to_far: Arc<Own>,
    not_json: WarnThrottle,
}

/// The requests of the program that the client has not answered.
#[derive(Default)]
struct AskedByProgram {
    waiting: HashSet<Bytes>,
    /// Those of a program that is gone: their answers are not for the new one.
    stale: HashSet<Bytes>,
    /// Of both.
    bytes: usize,
    held: Part,
}

impl AskedByProgram {
    /// One beyond the bound is not remembered: it is not cancelled when the program ends.
    fn insert(&mut self, id: &[u8]) {
        let count = self.waiting.len() + self.stale.len();
        if count < MOST
            && self.bytes + id.len() <= MOST_BYTES
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

    /// Whether an answer with this id is for a program that is gone. Once.
    fn take_stale(&mut self, id: &[u8]) -> bool {
        let is_stale = self.stale.remove(id);
        if is_stale {
            self.bytes -= id.len();
            self.hold();
        }
        is_stale
    }
}

/// What becomes of a message.
pub(crate) enum Verdict {
    /// It is passed on.
    Pass(Message),
    /// This is passed on in its place.
    Changed(Bytes, Message),
    /// It is lost, and this is passed on in its place.
    Instead(Bytes, String),
    /// It is not passed on, and its own side is told so.
    Answer(Bytes, String),
    /// It is not passed on.
    Drop(String),
}

/// What was done about a message that cannot be passed on.
pub(crate) enum Settled {
    /// Its own side was told so.
    Told,
    /// This is to be passed on in its place.
    Instead(Bytes),
    /// Nothing: it is no call and no answer.
    Not,
}

impl Dialogue {
    /// What it keeps is counted in `held`.
    pub(crate) fn new(dialect: Dialect, is_foreign: bool, held: Option<&Arc<Held>>) -> Self {
        let rules = match dialect.state {
            State::Handshake(rules) => Some(rules),
            _ => None,
        };
        Self {
            dialect,
            is_foreign,
            unanswered: Unanswered::new(dialect).within(held),
            asked_by_program: Mutex::new(AskedByProgram {
                held: Part::of(held),
                ..AskedByProgram::default()
            }),
            rules,
            record: rules.map(|rules| Mutex::new(Record::new(rules))),
            record_held: Mutex::new(Part::of(held)),
            is_awaited: AtomicBool::new(false),
            replay: Mutex::new(None),
            is_replaying: AtomicBool::new(false),
            client_has_spoken: AtomicBool::new(false),
            to_near: Arc::new(Own::within(held)),
            to_far: Arc::new(Own::within(held)),
            not_json: WarnThrottle::new(|count| {
                tracing::warn!(count, "the program has printed more lines that are not JSON");
            }),
        }
    }

    /// What a message of the client's is, that nobody will read any more.
    pub(crate) fn undelivered(&self, message: &Bytes) {
        self.unanswered.asked(&self.unanswered.classify(message));
    }

    /// The client's requests that wait for their answers.
    pub(crate) fn requests(&self) -> &Unanswered {
        &self.unanswered
    }

    /// The same, to be answered in the program's place; `None` where nothing may be put into the stream.
    pub(crate) fn unanswered(&self) -> Option<&Unanswered> {
        self.dialect.adds_messages.then_some(&self.unanswered)
    }

    /// What becomes of a message of this side.
    pub(crate) fn judge(&self, from: Side, message: &Bytes) -> Verdict {
        let seen = self.unanswered.classify(message);
        match (&seen, from) {
            (Message::Invalid(invalid), _) => {
                self.judge_invalid(from, message, invalid).unwrap_or(Verdict::Pass(seen))
            }
            (Message::Response(response), Side::Client)
                if lock(&self.asked_by_program).take_stale(response.id()) =>
            {
                Verdict::Drop("it answers a program that has ended".into())
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
                    // The client may know its id in its own spelling only.
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
                // A client that sends no JSON is told so by its program.
                let Side::Server = from else { return None };
                if let Some(unreported) = self.not_json.admit(Instant::now()) {
                    let start = message.get(..SHOWN).unwrap_or(message).escape_ascii();
                    tracing::warn!(
                        unreported,
                        "the program has printed what is not JSON ({why}): {start}"
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
            // Of a batch no id is known.
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

    /// A message of this side was lost on the way to the gateway. What is to be said to the other side in
    /// its place; its own side is told here.
    pub(crate) async fn lost(&self, from: Side, fault: &Fault) -> Option<Bytes> {
        self.lost_message(from, fault.head(), fault.to_string()).await
    }

    /// The same for a message of which this is the start, or all.
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
            self.tell(from, refusal.into()).await;
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

    /// A message of this side arrived whole, and the other side's line cannot carry it.
    pub(crate) async fn settle(&self, from: Side, message: &Bytes, why: String) -> Settled {
        if !self.dialect.adds_messages {
            return Settled::Not;
        }
        let is_client = matches!(from, Side::Client);
        if let (true, Message::Invalid(invalid)) = (is_client, self.unanswered.classify(message))
            && invalid.code() == PARSE_ERROR
        {
            // Nothing that it could be an answer to is known, so the client learns that it was no JSON.
            let text = format!("the message cannot be passed on: {why}");
            let refusal = write_error(&self.dialect, b"null", PARSE_ERROR, &text, None);
            self.tell(from, refusal.into()).await;
            return Settled::Told;
        }
        let start = message.get(..FAULT_HEAD).unwrap_or(message);
        let outline = Outline::of(start);
        let is_told = outline.is_call() && outline.id().is_some();
        match self.lost_message(from, start, why).await {
            Some(instead) => Settled::Instead(instead),
            None if is_told => Settled::Told,
            None => Settled::Not,
        }
    }

    /// The client has sent what its framing cannot recover from: what it asked is not known.
    pub(crate) fn client_broke_framing(&self, error: &FrameError) {
        if self.dialect.adds_messages {
            let text = error.to_string();
            let refusal = write_error(&self.dialect, b"null", INVALID_REQUEST, &text, None);
            self.to_near.try_push(refusal.into());
        }
    }

    /// Says something to the side itself that has spoken.
    pub(crate) async fn tell(&self, side: Side, message: Bytes) {
        match side {
            Side::Client => {
                poll_fn(|cx| self.to_near.poll_room(cx)).await;
                self.to_near.push(message);
            }
            // A program that takes none of its refusals must not be kept from being heard.
            Side::Server if self.to_far.try_push(message) => {}
            Side::Server => tracing::debug!("too many refusals wait for the program"),
        }
    }

    /// What the client is told in place of an answer of its program's, if it waits for that one.
    fn lost_answer(&self, outline: &Outline<'_>, why: &str) -> Option<Bytes> {
        if !self.dialect.adds_messages || !outline.may_be_answer() {
            return None;
        }
        let id = self.unanswered.settle(outline.id(), outline.has_outcome())?;
        let text = format!("the answer was lost: {why}");
        Some(write_error(&self.dialect, &id, INTERNAL_ERROR, &text, None).into())
    }

    /// What the program is told in place of an answer of its client's.
    fn lost_outcome(&self, id: &[u8], why: &str) -> Bytes {
        let text = format!("the client's answer was lost: {why}");
        write_error(&self.dialect, id, INTERNAL_ERROR, &text, None).into()
    }

    /// The message of this side is passed on.
    pub(crate) fn passed(&self, from: Side, seen: &Message) {
        match from {
            Side::Client => {
                self.client_has_spoken.store(true, Relaxed);
                self.unanswered.asked(seen);
            }
            Side::Server => self.unanswered.answered(seen),
        }
        self.note_program_requests(from, seen);
        let (Some(rules), Some(record)) = (self.rules, &self.record) else { return };
        let concerns = match seen {
            Message::Request(request) => Record::concerns(rules, &request.method()),
            Message::Notification(it) => Record::concerns(rules, &it.method()),
            Message::Response(_) => self.is_awaited.load(Relaxed),
            Message::Batch(_) => true,
            Message::Invalid(_) => false,
        };
        if concerns {
            let mut record = lock(record);
            match from {
                Side::Client => record.client_said(seen),
                Side::Server => record.program_said(seen),
            }
            self.is_awaited.store(record.awaits_answer(), Relaxed);
            lock(&self.record_held).set(record.bytes());
        }
    }

    fn note_program_requests(&self, from: Side, seen: &Message) {
        match (from, seen) {
            (Side::Server, Message::Request(request)) => {
                let mut asked = lock(&self.asked_by_program);
                if self.dialect.cancel.is_some_and(|cancel| cancel.code.is_none()) {
                    // The one that was cancelled gets no answer.
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

    /// Another program, or another session, has taken the place of the one that was lost, and what the
    /// client sends from here on waits until it knows what that knew.
    ///
    /// # Errors
    /// Why the new one cannot take the place of the one before.
    pub(crate) fn restarted(&self, is_session: bool) -> Result<(), String> {
        self.cancel_stale();
        self.to_far.close_gate();
        self.stop_replay(None);
        match self.dialect.state {
            State::Handshake(_) => {}
            // What a new session has behind it is not known to be the same as before.
            State::Unknown if !is_session => {}
            _ if !self.client_has_spoken.load(Relaxed) => {}
            _ => {
                return Err(format!(
                    "the dialect {} has no way to restore its state",
                    self.dialect.name
                ));
            }
        }
        let plan = self.record.as_ref().map(|record| lock(record).restarted());
        let (Some(plan), Some(rules)) = (plan, self.rules) else {
            self.to_far.open_gate();
            return Ok(());
        };
        match Replay::of(plan, self.dialect, rules)? {
            None => self.to_far.open_gate(),
            Some((replay, first)) => {
                tracing::info!("the handshake is replayed to the new program");
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

    /// What the program that has ended had asked of the client.
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
    }

    /// Whether the client waits for the end of the handshake.
    pub(crate) fn is_opening(&self) -> bool {
        self.is_replaying.load(Relaxed)
            && lock(&self.replay).as_ref().is_some_and(Replay::is_opening)
    }

    /// Whether this message of the program is for the client.
    ///
    /// # Errors
    /// Why the new program cannot take the place of the one before.
    pub(crate) fn hears(&self, message: &Bytes) -> Result<bool, String> {
        if !self.is_replaying.load(Relaxed) {
            return Ok(true);
        }
        let seen = self.unanswered.classify(message);
        let mut place = lock(&self.replay);
        let Some(replay) = &mut *place else { return Ok(true) };
        let heard = replay.heard(&seen);
        if replay.is_done() {
            *place = None;
            self.is_replaying.store(false, Relaxed);
        }
        drop(place);
        match heard {
            Heard::Pass => return Ok(true),
            Heard::Swallowed => {}
            Heard::Answer(answer) => drop(self.to_far.try_push(answer)),
            Heard::Opened(messages) => {
                messages.into_iter().for_each(|it| self.to_far.push(it));
                self.to_far.open_gate();
            }
            Heard::Failed(why) => return Err(why),
        }
        Ok(false)
    }
}

/// What an id takes beside its bytes.
const EACH_ID: usize = 2 * size_of::<Bytes>();

/// How many bytes of what is not JSON are logged.
const SHOWN: usize = 200;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
