//! The requests from a client that its program has not answered yet.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Answers, Dialect, Message, Outline, classify, member, write_error};
use tieline_transport::{CloseReason, Incoming};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::line_memory::{LineMemory, MemoryPart};
use crate::lock::lock;

/// The maximum number of requests that are recorded. Further requests get no response if the program ends.
pub(crate) const MAX_CALLS: usize = 65_536;
/// The maximum length of all recorded ids, in bytes.
pub(crate) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The memory that a request uses in addition to the bytes of its id.
const EACH: usize = 2 * size_of::<(Bytes, u64)>();

/// With more requests in flight than this, responses are only matched by their exact id, because any
/// other match compares each response with every request.
const MAX_COMPARED: usize = 1024;

/// How many bytes at the end of the program's stderr an error response contains.
pub(crate) const MAX_STDERR: usize = 4096;

/// How long the program must be silent before its output is considered complete, if it was sent text
/// that is not JSON-RPC and has sent as many messages in return.
const SILENCE: Duration = Duration::from_secs(1);

/// The factor by which the wait for answers to such text is longer if they cannot arrive later: with the
/// usual grace period of 10 s, the program may work for a minute.
const AT_WORK: u32 = 6;

/// Fewer bytes than this may be pings rather than part of a message.
const MOVES: u64 = 1024;

/// The ids of requests without a response, in the order in which they were sent.
pub(crate) struct Unanswered {
    dialect: Dialect,
    waiting: Mutex<Waiting>,
    /// Notified when the program sends something.
    output: Notify,
}

#[derive(Default)]
struct Waiting {
    /// The client has sent messages that may or may not get an answer, or more requests than are
    /// recorded.
    is_unclear: bool,
    /// How many of those messages may still get an answer. Each message from the program that is not a
    /// response to a recorded request is counted as such an answer.
    owed: u64,
    /// Whether the client has sent anything.
    client_has_sent: bool,
    /// Whether the program has sent anything.
    program_has_sent: bool,
    last: u64,
    ids: HashMap<Bytes, u64>,
    bytes: usize,
    held: MemoryPart,
}

impl Unanswered {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, waiting: Mutex::default(), output: Notify::new() }
    }

    /// Counts the memory in `held`.
    pub(crate) fn within(self, held: Option<&Arc<LineMemory>>) -> Self {
        self.lock().held = MemoryPart::of(held);
        self
    }

    /// Completes when every request has its response, however long that takes.
    ///
    /// If the client has also sent text that is not JSON-RPC, an answer to it cannot be recognized. The
    /// program then has `patience` to send as many messages in return. If `is_last` is set, it has
    /// [`AT_WORK`] times as long, because nothing can arrive later. After that it must be silent for
    /// [`SILENCE`]; this wait also ends after `patience`, so that a program that sends all the time does
    /// not prolong it forever.
    ///
    /// If neither side has sent anything and `is_last` is set, waits for the program's first message for
    /// `patience`.
    ///
    /// The time for answers restarts while `moved`, the number of bytes that went over the line, grows:
    /// an answer may be long, and the line may be slow.
    ///
    /// Returns how many messages got no answer.
    pub(crate) async fn settled(
        &self,
        patience: Duration,
        is_last: bool,
        moved: &AtomicU64,
    ) -> u64 {
        while !self.lock().ids.is_empty() {
            self.output.notified().await;
        }
        let (is_unclear, is_unused) = {
            let waiting = self.lock();
            (waiting.is_unclear, !waiting.client_has_sent && !waiting.program_has_sent)
        };
        let begun = Instant::now();
        if is_unclear {
            let longest = if is_last { patience * AT_WORK } else { patience };
            if !while_it_moves(longest, moved, self.all_answered()).await {
                return self.lock().owed;
            }
        } else if !is_unused
            || !is_last
            || !while_it_moves(patience, moved, self.output.notified()).await
        {
            return 0;
        }
        // A late answer may be followed by others.
        let last = if begun.elapsed() < patience { begun } else { Instant::now() };
        let silent = async { while timeout(SILENCE, self.output.notified()).await.is_ok() {} };
        let _ = timeout_at(last + patience, silent).await;
        0
    }

    /// Completes when no answer is missing any more.
    async fn all_answered(&self) {
        while self.lock().owed > 0 {
            self.output.notified().await;
        }
    }

    /// Classifies a message leniently, because the other side may do so, too: with or without a version,
    /// and with batches even if the dialect has none.
    pub(crate) fn classify(&self, message: &Bytes) -> Message {
        let mut dialect = self.dialect;
        (dialect.batches, dialect.version) = (true, false);
        classify(message.clone(), &dialect, Limits::default())
    }

    /// Records a message from the client.
    pub(crate) fn asked(&self, message: &Message) {
        let mut waiting = self.lock();
        waiting.client_has_sent = true;
        each(message, |message| match message {
            Message::Request(request) => waiting.asked(request.id()),
            Message::Notification(notification) => {
                // In some dialects a cancelled request gets no response.
                let cancel = self.dialect.cancel.filter(|cancel| cancel.code.is_none());
                if let Some(cancel) = cancel.filter(|it| it.method == notification.method()) {
                    let params = notification.params().unwrap_or_default();
                    let _ = waiting.answered(member(params, cancel.id));
                }
            }
            Message::Response(_) | Message::Batch(_) => {}
            // Blank text gets no answer: in line framing it is not even a message.
            Message::Invalid(invalid) if invalid.message().trim_ascii().is_empty() => {}
            // An invalid request may get a response as well.
            Message::Invalid(invalid) => match Outline::of(invalid.message()) {
                outline if outline.is_call() => match outline.id() {
                    Some(id) => waiting.asked(id),
                    None => waiting.asked_unclearly(),
                },
                _ => waiting.asked_unclearly(),
            },
        });
    }

    /// Records a message that arrived from the client, or the beginning of one that could not be received.
    /// Returns false if it is neither.
    pub(crate) fn arrived(&self, incoming: &Incoming) -> bool {
        let message = match incoming {
            Incoming::Message(message) => message.clone(),
            Incoming::Fault(fault) => Bytes::copy_from_slice(fault.head()),
            _ => return false,
        };
        self.asked(&self.classify(&message));
        true
    }

    /// Records a message from the program.
    pub(crate) fn answered(&self, message: &Message) {
        let mut waiting = self.lock();
        waiting.program_has_sent = true;
        each(message, |message| match message {
            Message::Response(response) => waiting.program_sent(Some(response.id())),
            Message::Invalid(invalid) => {
                let outline = Outline::of(invalid.message());
                waiting.program_sent(outline.id().filter(|_| outline.may_be_answer()));
            }
            _ => waiting.program_sent(None),
        });
        drop(waiting);
        self.output.notify_one();
    }

    /// Returns the id of the request that a response belongs to if the response has no id, or has it in another
    /// spelling than the client. Returns `None` if the id matches exactly, or if the response may belong to
    /// several requests or to none.
    pub(crate) fn find(&self, answers: Answers<'_>) -> Option<Bytes> {
        let waiting = self.lock();
        let is_exact = matches!(answers, Answers::Call(id) if waiting.ids.contains_key(id));
        if is_exact || waiting.ids.len() > MAX_COMPARED {
            return None;
        }
        answers.find(waiting.ids.keys().map(|id| (id, id))).cloned()
    }

    /// Removes the request whose response was lost, and returns its id. That is the request with this `id` or,
    /// if the id of a response was lost as well, the only one in flight.
    pub(crate) fn settle(&self, id: Option<&[u8]>, is_answer: bool) -> Option<Bytes> {
        let mut waiting = self.lock();
        let id = match id {
            Some(id) => Bytes::copy_from_slice(id),
            None if is_answer && waiting.ids.len() == 1 => waiting.ids.keys().next()?.clone(),
            None => return None,
        };
        let is_settled = waiting.answered(Some(&id));
        drop(waiting);
        self.output.notify_one();
        is_settled.then_some(id)
    }

    /// Returns error responses to all requests from a program that has ended. They are created one by
    /// one, because together they may be far larger than the requests.
    pub(crate) fn answers(
        &self,
        reason: &CloseReason,
    ) -> impl ExactSizeIterator<Item = Vec<u8>> + use<> {
        let data = reason.child_exit().map(|exit| exit.to_json(MAX_STDERR));
        let text = match reason {
            // These texts already say what happened to the program.
            CloseReason::NotRestored(_)
            | CloseReason::SessionLost(_)
            | CloseReason::Unresponsive(_) => reason.to_string(),
            _ => format!("the program has ended: {reason}"),
        };
        self.errors(text, data)
    }

    /// Works like [`answers`](Self::answers), for the requests from a client that was refused. `exit` says how a
    /// program ended, as JSON.
    pub(crate) fn answers_because(
        &self,
        why: String,
        exit: Option<String>,
    ) -> impl ExactSizeIterator<Item = Vec<u8>> + use<> {
        self.errors(why, exit)
    }

    /// Returns whether no request waits for a response.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().ids.is_empty()
    }

    fn errors(
        &self,
        text: String,
        data: Option<String>,
    ) -> impl ExactSizeIterator<Item = Vec<u8>> + use<> {
        let ids = {
            let mut waiting = self.lock();
            let held = std::mem::take(&mut waiting.held);
            let Waiting { ids, .. } = std::mem::take(&mut *waiting);
            waiting.held = held;
            waiting.hold();
            ids
        };
        self.output.notify_one();
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable_by_key(|(_, order)| *order);
        let dialect = self.dialect;
        ids.into_iter().map(move |(id, _)| {
            write_error(&dialect, &id, dialect.gone, &text, data.as_ref().map(String::as_bytes))
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }
}

/// Calls `look` with each message of a batch, or with the single message.
fn each(message: &Message, mut look: impl FnMut(&Message)) {
    match message {
        Message::Batch(elements) => elements.iter().for_each(look),
        one => look(one),
    }
}

/// Returns whether `future` completes before there is a pause of `longest` in which no bytes move.
async fn while_it_moves(
    longest: Duration,
    moved: &AtomicU64,
    future: impl Future<Output = ()>,
) -> bool {
    let mut future = pin!(future);
    loop {
        let before = moved.load(Relaxed);
        if timeout(longest, &mut future).await.is_ok() {
            return true;
        }
        if moved.load(Relaxed).wrapping_sub(before) < MOVES {
            return false;
        }
    }
}

impl Waiting {
    fn hold(&mut self) {
        self.held.set(self.bytes + self.ids.len() * EACH);
    }

    fn asked(&mut self, id: &[u8]) {
        if self.ids.len() >= MAX_CALLS || self.bytes + id.len() > MAX_BYTES {
            // The request is not recorded, but the program may still answer it.
            return self.asked_unclearly();
        }
        self.last += 1;
        if self.ids.insert(Bytes::copy_from_slice(id), self.last).is_none() {
            self.bytes += id.len();
            self.hold();
        }
    }

    fn asked_unclearly(&mut self) {
        self.is_unclear = true;
        self.owed += 1;
    }

    /// Records a message from the program: a response to `id`, or anything else.
    fn program_sent(&mut self, id: Option<&[u8]>) {
        if !self.answered(id) {
            self.owed = self.owed.saturating_sub(1);
        }
    }

    /// Removes a request that was answered. Returns whether it was recorded.
    fn answered(&mut self, id: Option<&[u8]>) -> bool {
        let Some((id, _)) = id.and_then(|id| self.ids.remove_entry(id)) else { return false };
        self.bytes -= id.len();
        self.hold();
        true
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::sync::Arc;

    use tieline_transport::ChildExit;

    use super::*;

    /// Returns the peak memory use of this process, in KiB.
    fn peak() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn blank_text_expects_no_answer() {
        for (text, owed) in [("", 0), (" \t ", 0), ("text", 1)] {
            let unanswered = Unanswered::new(Dialect::STRICT);
            unanswered.asked(&unanswered.classify(&text.into()));
            assert_eq!(
                unanswered.settled(Duration::from_secs(10), true, &AtomicU64::new(0)).await,
                owed,
                "{text:?}"
            );
        }
    }

    /// Until a long answer on a slow line is complete, only its bytes are visible.
    #[tokio::test(start_paused = true)]
    async fn answer_is_waited_for_while_its_bytes_arrive() {
        for (asks, bytes_a_second, owed) in
            [(true, 200, 0), (true, 1, 1), (false, 200, 0), (false, 1, 0)]
        {
            let unanswered = Unanswered::new(Dialect::STRICT);
            if asks {
                unanswered.asked(&unanswered.classify(&"text".into()));
            }
            let begun = Instant::now();
            let moved = AtomicU64::new(0);
            let arrives = async {
                for _ in 0..600 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    moved.fetch_add(bytes_a_second, Relaxed);
                }
                unanswered.answered(&unanswered.classify(&"answer".into()));
                std::future::pending().await
            };
            let left = tokio::select! {
                left = unanswered.settled(Duration::from_secs(10), true, &moved) => left,
                never = arrives => never,
            };
            assert_eq!(left, owed, "{asks}, {bytes_a_second} bytes a second");
            let is_awaited = begun.elapsed() >= Duration::from_secs(600);
            assert_eq!(is_awaited, bytes_a_second > 1, "{asks}, {bytes_a_second} bytes a second");
        }
    }

    /// A program with much output on stderr leaves many requests unanswered, and the client reads slowly.
    #[test]
    fn error_responses_use_no_memory_before_they_are_sent() {
        const COUNT: usize = 8192;
        let unanswered = Unanswered::new(Dialect::STRICT);
        for id in 0..COUNT {
            let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
            unanswered.asked(&unanswered.classify(&request.into()));
        }
        let reason = CloseReason::ChildExited(Arc::new(ChildExit {
            status: ExitStatus::from_raw(256),
            stderr_tail: vec![1; 64 * 1024].into(),
            unterminated: false,
            truncated: None,
            unread: None,
            guardian_lost: false,
        }));
        let before = peak();
        let lengths: Vec<_> = unanswered.answers(&reason).map(|it| it.len()).collect();
        let all = lengths.iter().sum::<usize>() / 1024;
        assert!(lengths.len() == COUNT && all > 100_000, "{all} KiB");
        let grown = peak() - before;
        assert!(grown < all / 4, "{grown} KiB for {all} KiB of answers");
    }
}
