//! One connection: its state machine, its line, and the tasks between them.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_http::{EventWriter, RouteLine};
use tieline_mcp::{AcpConnection, AcpHead, AcpPosted, Ending, Initialized, Next, Place, Refusal};
use tieline_transport::{Account, Holding, MemoryBudget, Owner};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify};
use tokio::time::{Instant, timeout};

use super::Connections;
use crate::routes::{Kept, TURN, UNCOUNTED, deliver, lock, until};

/// A connection that is in use.
pub(super) struct Live {
    id: String,
    owner: Owner,
    line: RouteLine,
    clock: Instant,
    state: Mutex<State>,
    /// Only the task that holds this lock queues messages for the line.
    posting: AsyncMutex<()>,
    /// Wakes the task of the connection when there may be room, or the deadline or the state of the connection
    /// has changed.
    changed: Notify,
    /// Wakes the POST that waits for the response to `initialize`.
    initialized: Notify,
}

struct State {
    acp: AcpConnection,
    /// The notifications that wake the HTTP connections of the streams.
    streams: HashMap<u64, Arc<Notify>>,
    account: Account,
}

impl State {
    /// Counts the memory of the connection. Returns false if there is too little, which ends the connection.
    fn count_memory(&mut self) -> bool {
        if self.account.set(self.acp.held_bytes()).is_ok() {
            return true;
        }
        self.acp.forget();
        let is_enough = self.account.set(self.acp.held_bytes()).is_ok();
        if !is_enough {
            self.acp.end(Ending::Memory);
        }
        is_enough
    }
}

/// The reason why a POST was not accepted.
pub(super) enum Unposted {
    Refused(Refusal),
    /// The program does not read.
    Full,
}

impl Live {
    pub(super) fn new(
        id: String,
        owner: Owner,
        acp: AcpConnection,
        line: RouteLine,
        clock: Instant,
        memory: Option<&MemoryBudget>,
    ) -> Arc<Self> {
        let account = Account::of(memory, Holding::Queue);
        let state = Mutex::new(State { acp, streams: HashMap::new(), account });
        let (posting, changed, initialized) = (AsyncMutex::default(), Notify::new(), Notify::new());
        Arc::new(Self { id, owner, line, clock, state, posting, changed, initialized })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Waits until the program takes another message. This is done before any message is taken, so that a client
    /// that disconnects during the wait has posted nothing.
    async fn turn(&self, take_wait: Duration) -> Result<AsyncMutexGuard<'_, ()>, Unposted> {
        let turn = timeout(take_wait, async {
            let turn = self.posting.lock().await;
            self.line.room().await;
            turn
        });
        turn.await.map_err(|_| Unposted::Full)
    }

    /// Handles the POST with `initialize`.
    pub(super) async fn begin(
        &self,
        posted: &AcpPosted,
        take_wait: Duration,
    ) -> Result<(), Unposted> {
        let _turn = self.turn(take_wait).await?;
        // If the line has ended, the connection ends with it, which is the response.
        self.line.push(AcpConnection::opening(posted));
        Ok(())
    }

    /// Waits for the response to `initialize`.
    pub(super) async fn initialized(&self) -> Initialized {
        loop {
            let initialized = self.state().acp.initialized(self.now());
            let Initialized::Wait(time) = initialized else {
                self.changed.notify_one();
                return initialized;
            };
            tokio::select! {
                () = self.initialized.notified() => {}
                () = until(self.clock, Some(time)) => {}
            }
        }
    }

    /// Handles another POST.
    pub(super) async fn post(
        &self,
        head: &AcpHead,
        posted: &AcpPosted,
        take_wait: Duration,
    ) -> Result<(), Unposted> {
        let _turn = self.turn(take_wait).await?;
        let mut state = self.state();
        let message = state.acp.post(self.now(), head, posted).map_err(Unposted::Refused)?;
        let is_enough = state.count_memory();
        if !is_enough || state.acp.held_bytes() > UNCOUNTED {
            // It watches the account.
            self.changed.notify_one();
        }
        drop(state);
        if !is_enough {
            return Err(Unposted::Refused(posted.refused(Ending::Memory.acp_refusal())));
        }
        match self.line.push(message) {
            true => Ok(()),
            // The line has ended, and the connection ends with it.
            false => Err(Unposted::Refused(posted.refused(Refusal::unknown_connection()))),
        }
    }

    /// Handles a GET.
    pub(super) fn get(self: &Arc<Self>, head: &AcpHead) -> Result<Attached, Refusal> {
        let mut state = self.state();
        let (place, missing) = state.acp.get(self.now(), head)?;
        if missing > 0 {
            tracing::warn!(missing, "an ACP client resumed a stream too late: messages were lost");
        }
        let more = Arc::new(Notify::new());
        if let Some(replaced) = state.streams.insert(place.stream(), more.clone()) {
            replaced.notify_one();
        }
        self.changed.notify_one();
        Ok(Attached { live: self.clone(), place, more })
    }

    /// Ends the connection.
    pub(super) fn end(&self, why: Ending) {
        self.state().acp.end(why);
        self.changed.notify_one();
    }

    /// Moves messages from the program to the streams until the connection or its line ends.
    pub(super) async fn run(self: Arc<Self>, connections: Arc<Connections>) {
        loop {
            let (has_room, deadline) = {
                let mut state = self.state();
                if !state.count_memory() {
                    tracing::warn!("an ACP connection ended: too much memory is in use");
                }
                if state.acp.is_over() {
                    break;
                }
                (state.acp.has_room(), state.acp.deadline())
            };
            tokio::select! {
                message = self.line.take(), if has_room => {
                    let Some(message) = message else { break };
                    self.route(message);
                    self.line.handed_on();
                }
                () = until(self.clock, deadline) => {
                    if self.state().acp.expire(self.now()) {
                        tracing::info!("an ACP connection ended: it was idle for too long");
                    }
                }
                () = self.changed.notified() => {}
                () = self.memory_revoked() => {}
            }
        }
        connections.remove(&self.id);
        let mut state = self.state();
        state.acp.end(Ending::Program);
        state.streams.values().for_each(|stream| stream.notify_one());
        self.initialized.notify_one();
        let lost = state.acp.lost();
        state.account = Account::unbounded();
        drop(state);
        self.line.end();
        if lost > 0 {
            self.line.lose(lost, &"their ACP connection did not deliver them");
        }
    }

    /// Routes a message of the program, and those that follow it without a wait.
    fn route(&self, message: Bytes) {
        let mut state = self.state();
        let (mut next, mut routed) = (Some(message), 0);
        while let Some(message) = next {
            let touched = state.acp.from_program(message);
            let woken = touched.iter().filter_map(|stream| state.streams.get(stream));
            woken.for_each(|stream| stream.notify_one());
            routed += 1;
            let has_more = routed < TURN && state.acp.has_room();
            next = if has_more { self.line.try_take() } else { None };
        }
        drop(state);
        self.initialized.notify_one();
    }

    /// Completes when the memory of the connection is needed elsewhere.
    async fn memory_revoked(&self) {
        poll_fn(|cx| match self.state().account.check(cx.waker()) {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(()),
        })
        .await;
    }
}

impl Kept for Live {
    fn owner(&self) -> Owner {
        self.owner
    }

    fn abandoned_since(&self) -> Option<Duration> {
        self.state().acp.abandoned_since(self.now())
    }

    fn evict(&self) -> bool {
        let mut state = self.state();
        let is_abandoned = state.acp.abandoned_since(self.now()).is_some();
        if is_abandoned {
            state.acp.end(Ending::Evicted);
            self.changed.notify_one();
        }
        is_abandoned
    }
}

/// An HTTP connection of a stream. Dropping it detaches the connection; the stream can be resumed.
pub(super) struct Attached {
    live: Arc<Live>,
    place: Place,
    more: Arc<Notify>,
}

impl Attached {
    /// Writes the events of the stream until it ends or the client disconnects.
    pub(super) async fn deliver(self, writer: EventWriter) {
        let Self { live, place, more } = &self;
        let next = |out: &mut BytesMut| {
            let mut state = live.state();
            let was_full = !state.acp.has_room();
            let next = state.acp.next(*place, out);
            if was_full && next == Next::Event {
                live.changed.notify_one();
            }
            next
        };
        deliver(writer, more, next).await;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut state = self.live.state();
        state.acp.detach(self.live.now(), self.place);
        let stream = self.place.stream();
        if state.streams.get(&stream).is_some_and(|it| Arc::ptr_eq(it, &self.more)) {
            state.streams.remove(&stream);
        }
        drop(state);
        self.live.changed.notify_one();
    }
}
