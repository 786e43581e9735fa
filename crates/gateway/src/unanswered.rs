//! The requests of a client that its program has not answered: when it ends, nobody else will.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use serde_json::json;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Dialect, Message, OVERLOADED, classify, member, write_error};
use tieline_transport::{ChildExit, CloseReason};

/// So many are remembered; those beyond wait in vain.
const MOST: usize = 65_536;

/// How much of the program's last words an answer holds, in bytes.
const LAST_WORDS: usize = 4096;

/// The ids that wait, by the order in which they came.
pub(crate) struct Unanswered {
    dialect: Dialect,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    ids: HashMap<Bytes, u64>,
}

impl Unanswered {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, waiting: Mutex::default() }
    }

    /// The client has said this.
    pub(crate) fn asked(&self, message: &Bytes) {
        self.each(message, |waiting, message| match message {
            Message::Request(request) if waiting.ids.len() < MOST => {
                waiting.last += 1;
                waiting.ids.insert(Bytes::copy_from_slice(request.id()), waiting.last);
            }
            Message::Notification(notification) => {
                // Where a cancelled request has no answer, nobody waits for one.
                let cancel = self.dialect.cancel.filter(|cancel| cancel.code.is_none());
                if let Some(cancel) = cancel.filter(|it| it.method == notification.method()) {
                    let params = notification.params().unwrap_or_default();
                    waiting.answered(member(params, cancel.id));
                }
            }
            _ => {}
        });
    }

    /// The program has said this.
    pub(crate) fn answered(&self, message: &Bytes) {
        self.each(message, |waiting, message| match message {
            Message::Response(response) => waiting.answered(Some(response.id())),
            Message::Invalid(invalid) if invalid.is_response() => {
                waiting.answered(Some(invalid.id()));
            }
            _ => {}
        });
    }

    /// The program has ended: what is to be said to the client in its place.
    pub(crate) fn answers(&self, reason: &CloseReason) -> Vec<Vec<u8>> {
        let mut ids: Vec<_> = self.lock().ids.drain().collect();
        ids.sort_unstable_by_key(|(_, order)| *order);
        let text = format!("the program has ended: {reason}");
        let data = match reason {
            CloseReason::ChildExited(exit) => Some(evidence(exit).to_string()),
            _ => None,
        };
        let data = data.as_ref().map(String::as_bytes);
        // The same code as for a request that is not carried out: the range is too narrow for more.
        let error = |id: &Bytes| write_error(&self.dialect, id, OVERLOADED, &text, data);
        ids.iter().map(|(id, _)| error(id)).collect()
    }

    fn each(&self, message: &Bytes, look: impl Fn(&mut Waiting, &Message)) {
        // What one side may say is the other side's business.
        let limits = Limits { depth: u32::MAX, keys: u32::MAX };
        let classified = classify(message.clone(), &self.dialect, limits);
        let mut waiting = self.lock();
        match &classified {
            Message::Batch(elements) => elements.iter().for_each(|it| look(&mut waiting, it)),
            one => look(&mut waiting, one),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Waiting {
    fn answered(&mut self, id: Option<&[u8]>) {
        if let Some(id) = id {
            self.ids.remove(id);
        }
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
