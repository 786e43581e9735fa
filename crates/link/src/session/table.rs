//! The sessions of a server.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::session::{Hello, Lease, Position, Secret, SessionId, Welcome};
use tieline_transport::{ChildExit, Owner, from_now};
use tokio::time::Instant;

use super::shared_session::SharedSession;
use super::state::random;
use crate::lock::lock;

/// The live sessions, and those that have ended recently.
#[derive(Default)]
pub(super) struct Table {
    pub(super) live: Mutex<HashMap<SessionId, Weak<SharedSession>>>,
    /// Sessions that both ends have ended. The last acknowledgement may have been lost with its
    /// connection, so a client that tries to resume one receives the final position again. The oldest
    /// comes first; there are at most [`MAX_ENDED`].
    over: Mutex<VecDeque<Ended>>,
}

/// How many ended sessions are remembered.
const MAX_ENDED: usize = 1024;

/// How many bytes at the end of a program's stderr are remembered for an ended session.
const MAX_STDERR: usize = 4096;

struct Ended {
    lease: Lease<Owner>,
    position: Position,
    exit: Option<ChildExit>,
    until: Instant,
}

impl Table {
    /// Removes a session. `position` is its final position if both ends have ended it. The client may
    /// then still request this position, and how the program ended, during the grace period.
    pub(super) fn over(
        &self,
        lease: &Lease<Owner>,
        position: Option<Position>,
        exit: Option<ChildExit>,
        grace: Duration,
    ) {
        if let Some(position) = position {
            let exit = exit.map(|exit| {
                let tail = &exit.stderr_tail;
                let tail = tail.get(tail.len().saturating_sub(MAX_STDERR)..).unwrap_or_default();
                // The bytes are copied, so that the rest is not kept in memory.
                ChildExit { stderr_tail: Bytes::copy_from_slice(tail), ..exit }
            });
            self.remember(Ended { lease: lease.clone(), position, exit, until: from_now(grace) });
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
    }

    /// Returns how the program of a session ended, if that is known and `owner` owns the session.
    pub(super) fn exit(&self, session: SessionId, owner: &Owner) -> Option<ChildExit> {
        let live = lock(&self.live).get(&session).and_then(Weak::upgrade);
        if let Some(live) = live {
            return live.exit().filter(|_| live.state().belongs_to(owner));
        }
        let over = lock(&self.over);
        let ended = over.iter().find(|it| it.lease.session() == session)?;
        ended.exit.clone().filter(|_| ended.lease.principal() == owner)
    }

    /// Returns the final state of an ended session, as a welcome for the client that is authorized to
    /// resume it.
    pub(super) fn final_welcome(&self, hello: &Hello, owner: &Owner) -> Option<Welcome> {
        let mut over = lock(&self.over);
        let position = hello.position;
        let ended = over
            .iter_mut()
            .find(|it| it.until >= Instant::now() && it.lease.check(hello, owner).is_ok())?;
        // The client must have received everything.
        if position.received != ended.position.sent {
            return None;
        }
        let secret = Secret(random()?);
        ended.lease.resume(hello, owner, secret, ended.position).ok()
    }
}
