//! One session: its state machine, its line, and the tasks between them.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_http::{EventWriter, RouteLine};
use tieline_mcp::{
    Answer, Ending, Head, Next, Place, Posted, Refusal, Session, SessionTranslator, Translated,
};
use tieline_transport::{Account, Holding, MemoryBudget, Owner};
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::{Instant, timeout};

use super::Sessions;
use crate::routes::{Kept, TURN, UNCOUNTED, deliver, until};

/// A session that is in use.
pub(super) struct Live {
    id: String,
    owner: Owner,
    line: RouteLine,
    clock: Instant,
    state: Mutex<State>,
    /// Only the task that holds this lock queues messages for the line.
    posting: AsyncMutex<()>,
    /// Wakes the task of the session when there may be room, or the deadline or the state of the session
    /// has changed.
    changed: Notify,
}

struct State {
    session: Session,
    /// Between the session and its program.
    translator: SessionTranslator,
    /// The notifications that wake the connections of the streams.
    streams: HashMap<u64, Arc<Notify>>,
    account: Account,
}

impl State {
    /// Counts the memory of the session. Returns false if there is too little, which ends the session.
    fn held_bytes(&self) -> usize {
        self.session.held_bytes() + self.translator.held_bytes()
    }

    /// Takes messages of the client. Returns what the program gets.
    fn take_from_client(&mut self, now: Duration, messages: Vec<Bytes>) -> Vec<Bytes> {
        if self.translator.is_transparent() {
            return messages;
        }
        let mut to_program = Vec::new();
        for message in messages {
            let translated = self.translator.from_client(message);
            to_program.extend(self.deliver(now, translated));
        }
        to_program
    }

    /// Takes a message of the program. Returns what the program gets in return.
    fn take_from_program(&mut self, now: Duration, message: Bytes) -> Vec<Bytes> {
        if self.translator.is_transparent() {
            let touched = self.session.from_program(now, message);
            self.wake(&touched);
            return Vec::new();
        }
        let translated = self.translator.from_program(message);
        self.deliver(now, translated)
    }

    /// Gives the client its part. Returns that of the program.
    fn deliver(&mut self, now: Duration, translated: Translated) -> Vec<Bytes> {
        for message in translated.to_client {
            let touched = self.session.from_program(now, message);
            self.wake(&touched);
        }
        translated.to_program
    }

    fn count_memory(&mut self) -> bool {
        if self.account.set(self.held_bytes()).is_ok() {
            return true;
        }
        self.session.forget();
        let is_enough = self.account.set(self.held_bytes()).is_ok();
        if !is_enough {
            self.session.end(Ending::Memory);
        }
        is_enough
    }

    fn wake(&self, streams: &[u64]) {
        streams.iter().filter_map(|it| self.streams.get(it)).for_each(|it| it.notify_one());
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
        session: Session,
        line: RouteLine,
        clock: Instant,
        memory: Option<&MemoryBudget>,
    ) -> Arc<Self> {
        let account = Account::of(memory, Holding::Queue);
        let state = Mutex::new(State {
            session,
            translator: SessionTranslator::default(),
            streams: HashMap::new(),
            account,
        });
        let (posting, changed) = (AsyncMutex::default(), Notify::new());
        Arc::new(Self { id, owner, line, clock, state, posting, changed })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Handles a POST. Returns the stream of the response if there are requests.
    pub(super) async fn post(
        self: &Arc<Self>,
        head: &Head,
        posted: &Posted,
        take_wait: Duration,
    ) -> Result<Option<Attached>, Unposted> {
        let is_opening = posted.opening().is_some();
        // Wait before any message is taken, so that a client that disconnects during the wait has posted
        // nothing.
        let turn = timeout(take_wait, async {
            let turn = self.posting.lock().await;
            self.line.room().await;
            turn
        });
        let _turn = turn.await.map_err(|_| Unposted::Full)?;
        let mut state = self.state();
        let accepted = state.session.post(self.now(), head, posted);
        let accepted = accepted.map_err(Unposted::Refused)?;
        state.wake(&accepted.touched);
        if !state.count_memory() {
            self.changed.notify_one();
            return Err(Unposted::Refused(Ending::Memory.refusal()));
        }
        if state.session.held_bytes() > UNCOUNTED {
            // It watches the account.
            self.changed.notify_one();
        }
        let attached = accepted.place.map(|place| self.attach(&mut state, place, is_opening));
        let messages = state.take_from_client(self.now(), accepted.messages);
        drop(state);
        let is_taken = messages.into_iter().all(|message| self.line.push(message));
        match attached {
            // The line has ended, and the session ends with it. Requests are answered on their stream.
            None if !is_taken => Err(Unposted::Refused(Refusal::unknown_session())),
            attached => Ok(attached),
        }
    }

    /// Handles a GET.
    pub(super) fn get(self: &Arc<Self>, head: &Head) -> Result<Attached, Refusal> {
        let mut state = self.state();
        let (place, missing) = state.session.get(self.now(), head)?;
        if missing > 0 {
            tracing::warn!(missing, "an MCP client resumed a stream too late: messages were lost");
        }
        self.changed.notify_one();
        Ok(self.attach(&mut state, place, false))
    }

    fn attach(self: &Arc<Self>, state: &mut State, place: Place, is_opening: bool) -> Attached {
        let more = Arc::new(Notify::new());
        if let Some(replaced) = state.streams.insert(place.stream(), more.clone()) {
            replaced.notify_one();
        }
        Attached { live: self.clone(), place, more, is_opening }
    }

    /// Ends the session.
    pub(super) fn end(&self, why: Ending) {
        self.state().session.end(why);
        self.changed.notify_one();
    }

    /// Moves messages from the program to the streams until the session or its line ends.
    pub(super) async fn run(self: Arc<Self>, sessions: Arc<Sessions>) {
        loop {
            let (has_room, deadline) = {
                let mut state = self.state();
                if !state.count_memory() {
                    tracing::warn!("an MCP session ended: too much memory is in use");
                }
                if state.session.is_over() {
                    break;
                }
                (state.session.has_room(), state.session.deadline())
            };
            tokio::select! {
                message = self.line.take(), if has_room => {
                    let Some(message) = message else { break };
                    self.route(message);
                    self.line.handed_on();
                }
                () = until(self.clock, deadline) => {
                    if self.state().session.expire(self.now()) {
                        tracing::info!("an MCP session ended: it was idle for too long");
                    }
                }
                () = self.changed.notified() => {}
                () = self.memory_revoked() => {}
            }
        }
        sessions.remove(&self.id);
        let mut state = self.state();
        state.session.end(Ending::Program);
        state.streams.values().for_each(|stream| stream.notify_one());
        let lost = state.session.lost();
        state.account = Account::unbounded();
        drop(state);
        self.line.end();
        if lost > 0 {
            self.line.lose(lost, &"their MCP session did not deliver them");
        }
    }

    /// Routes a message of the program, and those that follow it without a wait.
    fn route(&self, message: Bytes) {
        let (now, mut state) = (self.now(), self.state());
        let (mut next, mut routed) = (Some(message), 0);
        while let Some(message) = next {
            // Few: at most some dozens for each request of the client.
            for message in state.take_from_program(now, message) {
                self.line.push(message);
            }
            routed += 1;
            let has_more = routed < TURN && state.session.has_room();
            next = if has_more { self.line.try_take() } else { None };
        }
    }

    /// Completes when the memory of the session is needed elsewhere.
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
        self.state().session.abandoned_since(self.now())
    }

    fn evict(&self) -> bool {
        let mut state = self.state();
        let is_abandoned = state.session.abandoned_since(self.now()).is_some();
        if is_abandoned {
            state.session.end(Ending::Evicted);
            self.changed.notify_one();
        }
        is_abandoned
    }
}

/// A connection of a stream. Dropping it detaches the connection; the stream can be resumed.
pub(super) struct Attached {
    live: Arc<Live>,
    place: Place,
    more: Arc<Notify>,
    /// Whether the client does not know the session's id yet, which is in the response.
    is_opening: bool,
}

impl Attached {
    pub(super) fn session(&self) -> &str {
        &self.live.id
    }

    /// Records that the client receives the session's id.
    pub(super) fn delivered(&mut self) {
        self.is_opening = false;
    }

    /// Waits until the form of the response is known.
    pub(super) async fn answer(&mut self) -> Answer {
        loop {
            let answer = self.live.state().session.answer(self.live.now(), self.place);
            let Answer::Wait(time) = answer else { return answer };
            tokio::select! {
                () = self.more.notified() => {}
                () = until(self.live.clock, Some(time)) => {}
            }
        }
    }

    /// Writes the events of the stream until it ends or the client disconnects.
    pub(super) async fn deliver(mut self, writer: EventWriter) {
        self.delivered();
        let Self { live, place, more, .. } = &self;
        let next = |out: &mut BytesMut| {
            let mut state = live.state();
            let was_full = !state.session.has_room();
            let next = state.session.next(*place, out);
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
        state.session.detach(self.live.now(), self.place);
        let stream = self.place.stream();
        if state.streams.get(&stream).is_some_and(|it| Arc::ptr_eq(it, &self.more)) {
            state.streams.remove(&stream);
        }
        if self.is_opening {
            state.session.end(Ending::Deleted);
        }
        drop(state);
        self.live.changed.notify_one();
    }
}
