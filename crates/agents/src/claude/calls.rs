//! Pending requests to the program.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tieline_transport::CloseReason;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::frames::{Answered, NoAnswer, is_lost_answer, names};

/// The pending requests. An entry is kept as long as its [`Waiting`] exists.
pub(super) struct Calls {
    table: Mutex<Table>,
    /// The ids of abandoned requests, which the program must still be asked to cancel.
    withdrawn: mpsc::Sender<String>,
    /// Counts the requests that are not cancelled.
    lost: Arc<AtomicU64>,
}

/// How many cancellations may wait for the reader, which takes them without waiting for the program. Further
/// ones are dropped and counted.
const MAX_WITHDRAWN: usize = 1024;

#[derive(Default)]
struct Table {
    last: u64,
    waiting: HashMap<String, oneshot::Sender<Answered>>,
    ended: Option<CloseReason>,
    unclaimed: u64,
}

impl Calls {
    /// Creates the table, and the receiver for the ids of abandoned requests. `lost` counts those that do not fit
    /// into it.
    pub(super) fn new(lost: Arc<AtomicU64>) -> (Arc<Self>, mpsc::Receiver<String>) {
        let (withdrawn, ids) = mpsc::channel(MAX_WITHDRAWN);
        (Arc::new(Self { table: Mutex::default(), withdrawn, lost }), ids)
    }

    /// Registers a new request.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Waiting, CloseReason> {
        let mut table = self.table();
        if let Some(reason) = &table.ended {
            return Err(reason.clone());
        }
        table.last += 1;
        let id = format!("tieline_{}", table.last);
        let (answer, answered) = oneshot::channel();
        table.waiting.insert(id.clone(), answer);
        Ok(Waiting { calls: self.clone(), id, answered })
    }

    /// Delivers a response. A late, duplicate or unknown response is counted.
    pub(super) fn answer(&self, id: &str, answer: Answered) {
        let mut table = self.table();
        let is_claimed = match table.waiting.remove(id) {
            Some(waiting) => waiting.send(answer).is_ok(),
            None => false,
        };
        if !is_claimed {
            table.unclaimed += 1;
            tracing::debug!(id, "dropped a response without a pending request");
        }
    }

    /// Delivers a response without an id to the only pending request. Returns false if there is not
    /// exactly one.
    pub(super) fn answer_only(&self, answer: Answered) -> bool {
        let only = match &mut self.table().waiting.keys() {
            ids if ids.len() == 1 => ids.next().cloned(),
            _ => None,
        };
        match only {
            Some(id) => self.answer(&id, answer),
            None => return false,
        }
        true
    }

    /// Handles a discarded line, given its first bytes. If the line was a response, its request fails:
    /// the request whose id the line contains, or otherwise the only pending request.
    pub(super) fn lost(&self, head: &[u8], why: &str) {
        if !is_lost_answer(head) {
            return;
        }
        let answer = || Err(NoAnswer::Unusable(why.to_owned()));
        let named = self.table().waiting.keys().find(|id| names(head, id)).cloned();
        match named {
            Some(id) => self.answer(&id, answer()),
            None => {
                self.answer_only(answer());
            }
        }
    }

    /// Fails all pending and future requests, because the line has ended.
    pub(super) fn end(&self, reason: CloseReason) {
        let mut table = self.table();
        table.ended.get_or_insert(reason);
        table.waiting.clear();
    }

    pub(super) fn ended(&self) -> Option<CloseReason> {
        self.table().ended.clone()
    }

    pub(super) fn unclaimed(&self) -> u64 {
        self.table().unclaimed
    }

    pub(super) fn waiting(&self) -> usize {
        self.table().waiting.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pending request. Dropping it before the response arrives cancels it.
pub(super) struct Waiting {
    calls: Arc<Calls>,
    pub(super) id: String,
    answered: oneshot::Receiver<Answered>,
}

impl Waiting {
    /// Waits for the response. Returns `None` if the line ends first. Cancel-safe.
    pub(super) async fn answered(&mut self) -> Option<Answered> {
        (&mut self.answered).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.calls.table().waiting.remove(&self.id).is_some() {
            let sent = self.calls.withdrawn.try_send(std::mem::take(&mut self.id));
            // Once the line has ended, there is nothing left to cancel.
            if let Err(TrySendError::Full(_)) = sent {
                self.calls.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn each_response_reaches_its_request() {
        let (calls, _withdrawn) = Calls::new(Arc::default());
        let (mut one, mut two) = (calls.begin().unwrap(), calls.begin().unwrap());
        assert_ne!(one.id, two.id);
        calls.answer(&two.id, Ok(json!(2)));
        calls.answer(&one.id, Err(NoAnswer::Refused("no".into())));
        assert_eq!(two.answered().await.unwrap().unwrap(), json!(2));
        let refused = one.answered().await.unwrap();
        assert!(matches!(refused, Err(NoAnswer::Refused(words)) if words == "no"));
        calls.answer(&one.id, Ok(json!(1)));
        calls.answer("unknown", Ok(json!(1)));
        assert_eq!((calls.unclaimed(), calls.waiting()), (2, 0));
    }

    #[tokio::test]
    async fn dropped_request_leaves_only_a_cancellation() {
        let (calls, mut withdrawn) = Calls::new(Arc::default());
        let waiting = calls.begin().unwrap();
        let id = waiting.id.clone();
        drop(waiting);
        assert_eq!(withdrawn.try_recv().unwrap(), id);
        assert_eq!(calls.waiting(), 0);
        let answered = calls.begin().unwrap();
        calls.answer(&answered.id, Ok(json!(1)));
        drop(answered);
        assert!(withdrawn.try_recv().is_err());
    }

    #[tokio::test]
    async fn number_of_waiting_cancellations_is_bounded_and_the_others_are_counted() {
        let lost = Arc::new(AtomicU64::new(0));
        let (calls, withdrawn) = Calls::new(lost.clone());
        for _ in 0..MAX_WITHDRAWN + 3 {
            drop(calls.begin().unwrap());
        }
        assert_eq!((withdrawn.len(), lost.load(Ordering::Relaxed)), (MAX_WITHDRAWN, 3));
    }

    #[tokio::test]
    async fn response_without_an_id_goes_to_the_only_request() {
        let (calls, _withdrawn) = Calls::new(Arc::default());
        assert!(!calls.answer_only(Ok(json!(1))));
        let (mut one, mut two) = (calls.begin().unwrap(), calls.begin().unwrap());
        assert!(!calls.answer_only(Ok(json!(1))));
        let head = |rest: &str| format!(r#"{{"type":"control_response","response":{{{rest}"#);
        calls.lost(br#"{"type":"assistant","text":"tieline_1"#, "too long");
        calls.lost(head("").as_bytes(), "too long");
        assert_eq!(calls.waiting(), 2);
        let named = head(&format!(r#""request_id":"{}""#, one.id));
        calls.lost(named.as_bytes(), "too long");
        let lost = one.answered().await.unwrap();
        assert!(matches!(lost, Err(NoAnswer::Unusable(why)) if why == "too long"));
        calls.lost(head("").as_bytes(), "too long");
        assert!(two.answered().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn end_of_the_line_fails_all_requests() {
        let (calls, mut withdrawn) = Calls::new(Arc::default());
        let mut waiting = calls.begin().unwrap();
        calls.end(CloseReason::ByPeer);
        assert!(waiting.answered().await.is_none());
        drop(waiting);
        assert!(withdrawn.try_recv().is_err());
        assert!(calls.begin().is_err());
    }
}
