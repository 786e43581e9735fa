//! The requests of a client that its program has not answered: when it ends, nobody else will.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Answers, Dialect, Message, Outline, classify, member, write_error};
use tieline_transport::{ChildExit, CloseReason};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::held::{Held, Part};

/// So many are remembered, and so many bytes of their ids; those beyond wait in vain.
pub(crate) const MOST: usize = 65_536;
pub(crate) const MOST_BYTES: usize = 4 * 1024 * 1024;

/// What each takes beside its bytes.
const EACH: usize = 2 * size_of::<(Bytes, u64)>();

/// With more requests waiting, an answer is for the one whose id it has and for no other: each of them would
/// be looked at for each such answer.
const MOST_COMPARED: usize = 1024;

/// How much of the program's last words an answer holds, in bytes.
const LAST_WORDS: usize = 4096;

/// How long the program must have been silent before it is believed that nothing more will come, where
/// something was said to it that is no JSON-RPC, and it has said as much.
const SILENCE: Duration = Duration::from_secs(1);

/// How much longer an answer to such text is waited for where it could not arrive afterwards: with the usual
/// 10 s, as long as a program may be at work.
const AT_WORK: u32 = 6;

/// Fewer bytes than this are pings, and no message on its way.
const MOVES: u64 = 1024;

/// The ids that wait, by the order in which they came.
pub(crate) struct Unanswered {
    dialect: Dialect,
    waiting: Mutex<Waiting>,
    /// The program has said something.
    spoken: Notify,
}

#[derive(Default)]
struct Waiting {
    /// The client has said what may or may not have an answer, or more than is remembered.
    is_unclear: bool,
    /// How many of those messages may still have one: each that the program says, and that answers
    /// nothing else, is taken for an answer to one of them.
    owed: u64,
    /// The client has sent something, and the program has.
    has_asked: bool,
    has_said: bool,
    last: u64,
    ids: HashMap<Bytes, u64>,
    bytes: usize,
    held: Part,
}

impl Unanswered {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, waiting: Mutex::default(), spoken: Notify::new() }
    }

    /// The same, counted in `held`.
    pub(crate) fn within(self, held: Option<&Arc<Held>>) -> Self {
        self.lock().held = Part::of(held);
        self
    }

    /// Completes when every request has its answer, however long that takes.
    ///
    /// Where the client has also sent text that is no JSON-RPC, nothing tells what an answer to it is. Then
    /// the program has `patience` from there on: to send as many messages as there were of those, and to
    /// be silent for [`SILENCE`] afterwards. Where `is_last`, because nothing arrives after this, it has
    /// [`AT_WORK`] times as long to send them. Whichever comes first is the end, so that neither
    /// a slow answer is cut off nor a program that always speaks is listened to for ever.
    ///
    /// Where neither side has said anything and `is_last`, the program's first words are waited for in the
    /// same way.
    ///
    /// An answer may be long and the line slow: the time to send them begins anew while `moved`, the number of
    /// bytes that went over the line, grows.
    ///
    /// Returns how many messages had no answer.
    pub(crate) async fn settled(
        &self,
        patience: Duration,
        is_last: bool,
        moved: &AtomicU64,
    ) -> u64 {
        while !self.lock().ids.is_empty() {
            self.spoken.notified().await;
        }
        let (is_unclear, is_unused) = {
            let waiting = self.lock();
            (waiting.is_unclear, !waiting.has_asked && !waiting.has_said)
        };
        let begun = Instant::now();
        if is_unclear {
            let longest = if is_last { patience * AT_WORK } else { patience };
            if !while_it_moves(longest, moved, self.paid()).await {
                return self.lock().owed;
            }
        } else if !is_unused
            || !is_last
            || !while_it_moves(patience, moved, self.spoken.notified()).await
        {
            return 0;
        }
        // An answer that came late may not be the last one, either.
        let last = if begun.elapsed() < patience { begun } else { Instant::now() };
        let silent = async { while timeout(SILENCE, self.spoken.notified()).await.is_ok() {} };
        let _ = timeout_at(last + patience, silent).await;
        0
    }

    /// Completes when nothing is owed.
    async fn paid(&self) {
        while self.lock().owed > 0 {
            self.spoken.notified().await;
        }
    }

    /// What a message is, as the other side may take it: with or without a version, and in a batch
    /// whether or not the dialect has any.
    pub(crate) fn classify(&self, message: &Bytes) -> Message {
        let mut dialect = self.dialect;
        (dialect.batches, dialect.version) = (true, false);
        classify(message.clone(), &dialect, Limits::default())
    }

    /// The client has said this.
    pub(crate) fn asked(&self, message: &Message) {
        self.lock().has_asked = true;
        self.each(message, |waiting, message| match message {
            Message::Request(request) => waiting.asked(request.id()),
            Message::Notification(notification) => {
                // Where a cancelled request has no answer, nobody waits for one.
                let cancel = self.dialect.cancel.filter(|cancel| cancel.code.is_none());
                if let Some(cancel) = cancel.filter(|it| it.method == notification.method()) {
                    let params = notification.params().unwrap_or_default();
                    let _ = waiting.answered(member(params, cancel.id));
                }
            }
            Message::Response(_) | Message::Batch(_) => {}
            // Blank text asks for nothing: as a blank line it is no message at all.
            Message::Invalid(invalid) if invalid.message().trim_ascii().is_empty() => {}
            // One that is a little off has an answer all the same.
            Message::Invalid(invalid) => match Outline::of(invalid.message()) {
                outline if outline.is_call() => match outline.id() {
                    Some(id) => waiting.asked(id),
                    None => waiting.asked_unclearly(),
                },
                _ => waiting.asked_unclearly(),
            },
        });
    }

    /// The program has said this.
    pub(crate) fn answered(&self, message: &Message) {
        self.lock().has_said = true;
        self.each(message, |waiting, message| match message {
            Message::Response(response) => waiting.said(Some(response.id())),
            Message::Invalid(invalid) => {
                let outline = Outline::of(invalid.message());
                waiting.said(outline.id().filter(|_| outline.may_be_answer()));
            }
            _ => waiting.said(None),
        });
        self.spoken.notify_one();
    }

    /// The request that an answer is for which does not carry its id as the client wrote it, or none.
    /// `None`: it carries one that is waited for, or it may be for several or for none.
    pub(crate) fn find(&self, answers: Answers<'_>) -> Option<Bytes> {
        let waiting = self.lock();
        let is_exact = matches!(answers, Answers::Call(id) if waiting.ids.contains_key(id));
        if is_exact || waiting.ids.len() > MOST_COMPARED {
            return None;
        }
        answers.find(waiting.ids.keys().map(|id| (id, id))).cloned()
    }

    /// The answer to one of them was lost: which one, if it can be found. That is the one with this id;
    /// where the id is lost, too, but it is an answer, the only one that waits.
    pub(crate) fn settle(&self, id: Option<&[u8]>, is_answer: bool) -> Option<Bytes> {
        let mut waiting = self.lock();
        let id = match id {
            Some(id) => Bytes::copy_from_slice(id),
            None if is_answer && waiting.ids.len() == 1 => waiting.ids.keys().next()?.clone(),
            None => return None,
        };
        let is_settled = waiting.answered(Some(&id));
        drop(waiting);
        self.spoken.notify_one();
        is_settled.then_some(id)
    }

    /// The program has ended: what is to be said to the client in its place. Each is made when it is
    /// asked for: together they may be far larger than what they answer.
    pub(crate) fn answers(
        &self,
        reason: &CloseReason,
    ) -> impl ExactSizeIterator<Item = Vec<u8>> + use<> {
        let data = reason.child_exit().map(|exit| evidence(exit).to_string());
        let text = match reason {
            // They say what has become of the program.
            CloseReason::NotRestored(_) | CloseReason::SessionLost(_) => reason.to_string(),
            _ => format!("the program has ended: {reason}"),
        };
        self.errors(text, data)
    }

    /// The same for requests that no program was there for.
    pub(crate) fn answers_because(
        &self,
        why: &str,
    ) -> impl ExactSizeIterator<Item = Vec<u8>> + use<> {
        self.errors(why.to_owned(), None)
    }

    /// Whether no request waits.
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
        self.spoken.notify_one();
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable_by_key(|(_, order)| *order);
        let dialect = self.dialect;
        ids.into_iter().map(move |(id, _)| {
            write_error(&dialect, &id, dialect.gone, &text, data.as_ref().map(String::as_bytes))
        })
    }

    fn each(&self, message: &Message, look: impl Fn(&mut Waiting, &Message)) {
        let mut waiting = self.lock();
        match message {
            Message::Batch(elements) => elements.iter().for_each(|it| look(&mut waiting, it)),
            one => look(&mut waiting, one),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Whether this completes, with no pause of `longest` in which nothing moves.
async fn while_it_moves(
    longest: Duration,
    moved: &AtomicU64,
    what: impl Future<Output = ()>,
) -> bool {
    let mut what = pin!(what);
    loop {
        let before = moved.load(Relaxed);
        if timeout(longest, &mut what).await.is_ok() {
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
        if self.ids.len() >= MOST || self.bytes + id.len() > MOST_BYTES {
            // Its answer may come all the same.
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

    /// The program has said something, an answer to `id` or whatever it is.
    fn said(&mut self, id: Option<&[u8]>) {
        if !self.answered(id) {
            self.owed = self.owed.saturating_sub(1);
        }
    }

    /// Whether somebody waited for it.
    fn answered(&mut self, id: Option<&[u8]>) -> bool {
        let Some((id, _)) = id.and_then(|id| self.ids.remove_entry(id)) else { return false };
        self.bytes -= id.len();
        self.hold();
        true
    }
}

/// How it ended, for programs to read.
fn evidence(exit: &ChildExit) -> serde_json::Value {
    let tail = &exit.stderr_tail;
    let tail = tail.get(tail.len().saturating_sub(LAST_WORDS)..).unwrap_or_default();
    json!({
        "code": exit.status.code(),
        "status": exit.status.to_string(),
        "stderr": String::from_utf8_lossy(tail),
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::sync::Arc;

    use super::*;

    /// The most memory that this process ever had, in KiB.
    fn peak() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn blank_text_is_owed_no_answer() {
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

    /// A long answer over a slow line, of which nobody sees more than its bytes.
    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_while_its_bytes_come() {
        for (asks, bytes_a_second, owed) in
            [(true, 200, 0), (true, 1, 1), (false, 200, 0), (false, 1, 0)]
        {
            let unanswered = Unanswered::new(Dialect::STRICT);
            if asks {
                unanswered.asked(&unanswered.classify(&"text".into()));
            }
            let begun = Instant::now();
            let moved = AtomicU64::new(0);
            let comes = async {
                for _ in 0..600 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    moved.fetch_add(bytes_a_second, Relaxed);
                }
                unanswered.answered(&unanswered.classify(&"answer".into()));
                std::future::pending().await
            };
            let left = tokio::select! {
                left = unanswered.settled(Duration::from_secs(10), true, &moved) => left,
                never = comes => never,
            };
            assert_eq!(left, owed, "{asks}, {bytes_a_second} bytes a second");
            let is_awaited = begun.elapsed() >= Duration::from_secs(600);
            assert_eq!(is_awaited, bytes_a_second > 1, "{asks}, {bytes_a_second} bytes a second");
        }
    }

    /// A program with long last words that leaves many requests, and a client that reads slowly.
    #[test]
    fn answers_take_no_memory_before_they_are_sent() {
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
