//! The sessions of a server.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::session::{
    Farewell, Frame, Hello, Lease, Refusal, Secret, SessionId, SessionMachine,
};
use tieline_transport::{ChildExit, CloseReason, Owner, from_now};
use tokio::time::Instant;

use super::shared_session::SharedSession;
use super::state::{Remains, random};
use crate::lock::lock;

/// The live sessions, and those that have ended recently.
#[derive(Default)]
pub(super) struct Table {
    pub(super) live: Mutex<HashMap<SessionId, Weak<SharedSession>>>,
    /// Sessions that the server has ended. The last frames may have been lost with their connection, so a
    /// client that returns receives them again. Oldest first, at most [`MAX_ENDED`].
    over: Mutex<VecDeque<Ended>>,
}

/// How many ended sessions are remembered.
const MAX_ENDED: usize = 1024;

/// How many bytes of messages are kept for the clients of all ended sessions together. Those of the oldest are
/// discarded first.
const MAX_ENDED_BYTES: usize = 1 << 20;

/// How many bytes from the end of a program's stderr are kept for an ended session.
const MAX_STDERR: usize = 4096;

struct Ended {
    lease: Lease<Owner>,
    /// Keeps the messages that the client has not acknowledged.
    machine: SessionMachine,
    farewell: Farewell,
    failure: Option<CloseReason>,
    until: Instant,
}

/// Why a client cannot return to an ended session and, if the client may know, how the session ended.
pub(super) struct NoReturn {
    pub(super) refusal: Refusal,
    pub(super) text: String,
}

impl From<Refusal> for NoReturn {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, text: String::new() }
    }
}

impl Table {
    /// Adds a session that is about to begin. Returns false if there are already `max`
    /// sessions.
    pub(super) fn reserve(&self, id: SessionId, max: usize) -> bool {
        let mut live = lock(&self.live);
        let has_room = live.len() < max;
        if has_room {
            live.insert(id, Weak::new());
        }
        has_room
    }

    /// Removes a session. During the grace period, its client may still ask for what remains, and for why it
    /// failed.
    pub(super) fn over(
        &self,
        lease: &Lease<Owner>,
        remains: Option<Remains>,
        failure: Option<CloseReason>,
        grace: Duration,
    ) {
        if let Some(Remains { machine, farewell }) = remains {
            let failure = failure.map(|reason| match reason.child_exit() {
                Some(exit) => CloseReason::ChildExited(Arc::new(with_short_stderr(exit))),
                None => reason,
            });
            let (lease, until) = (lease.clone(), from_now(grace));
            self.remember(Ended { lease, machine, farewell, failure, until });
        }
        lock(&self.live).remove(&lease.session());
    }

    fn remember(&self, ended: Ended) {
        let mut over = lock(&self.over);
        let now = Instant::now();
        while over.len() >= MAX_ENDED || over.front().is_some_and(|oldest| oldest.until < now) {
            over.pop_front();
        }
        over.push_back(ended);
        let mut bytes = 0_usize;
        for ended in over.iter_mut().rev() {
            bytes = bytes.saturating_add(ended.machine.kept().1);
            if bytes > MAX_ENDED_BYTES {
                ended.machine.discard_kept();
            }
        }
    }

    /// Returns why a session failed, if that is known and `owner` owns the session.
    pub(super) fn failure(&self, session: SessionId, owner: &Owner) -> Option<CloseReason> {
        let live = lock(&self.live).get(&session).and_then(Weak::upgrade);
        if let Some(live) = live {
            return live.failure().filter(|_| live.state().belongs_to(owner));
        }
        let over = lock(&self.over);
        let ended = over.iter().find(|it| it.lease.session() == session)?;
        ended.failure.clone().filter(|_| ended.lease.principal() == owner)
    }

    /// Returns the last frames of an ended session, from the welcome to the farewell, for the client that is
    /// authorized to resume it.
    pub(super) fn last_frames(&self, hello: &Hello, owner: &Owner) -> Result<Vec<Frame>, NoReturn> {
        let mut over = lock(&self.over);
        let now = Instant::now();
        let is_theirs = |it: &&mut Ended| it.until >= now && it.lease.check(hello, owner).is_ok();
        let ended = over.iter_mut().find(is_theirs).ok_or(Refusal::Unknown)?;
        let secret = Secret(random().ok_or(Refusal::Full)?);
        let position = ended.machine.position();
        if let Err(refusal) = ended.machine.resume(hello.position) {
            return Err(NoReturn { refusal, text: ended.farewell.text.clone() });
        }
        let welcome = ended.lease.resume(hello, owner, secret, position)?;
        let mut frames = vec![Frame::Welcome(welcome)];
        frames.extend(std::iter::from_fn(|| ended.machine.next(Duration::ZERO)));
        frames.push(Frame::Bye(ended.farewell.clone()));
        Ok(frames)
    }
}

/// Returns this exit with only the end of its stderr.
fn with_short_stderr(exit: &ChildExit) -> ChildExit {
    let tail = &exit.stderr_tail;
    let tail = tail.get(tail.len().saturating_sub(MAX_STDERR)..).unwrap_or_default();
    // The bytes are copied, so that the rest is not kept in memory.
    ChildExit { stderr_tail: Bytes::copy_from_slice(tail), ..exit.clone() }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn simultaneous_reservations_do_not_exceed_the_limit() {
        let (table, together) = (Table::default(), Barrier::new(8));
        let reserve = |number| {
            together.wait();
            table.reserve(SessionId([number; 16]), 3)
        };
        let reserved = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|number| scope.spawn(move || reserve(number))).collect();
            threads.into_iter().filter_map(|it| it.join().ok()).filter(|it| *it).count()
        });
        assert_eq!((reserved, lock(&table.live).len()), (3, 3));
    }
}
