//! Requests of protocol version 2026-07-28, which have no session. Each client has a program, and a task
//! that serves it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_http::{EventWriter, RouteLine, RouteRequest, RouteResponse, Token};
use tieline_mcp::{
    ModernAnswer, ModernLimits, ModernNext, ModernProgram, ModernRequest, Next, ProgramEra,
    ToolHeaders,
};
use tieline_transport::{Account, Holding, MemoryBudget, Owner};
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::{Instant, timeout};

use super::{McpRoute, lost};
use crate::routes::{Refused, TURN, deliver, lock, until};

/// The maximum number of programs of one client. Another program is started if all of them wait for the
/// answers of a person. At the maximum, the call that has waited the longest is given up.
const MAX_PROGRAMS: usize = 8;

/// The maximum number of times that a request is posted, each time to another program.
const MAX_POSTS: usize = 4;

/// The programs of clients without sessions.
#[derive(Default)]
pub(super) struct Programs {
    running: Mutex<Vec<Arc<Running>>>,
    /// This lock is held while the server decides whether a client needs another program.
    deciding: Mutex<()>,
    /// The versions that the server's program speaks, once they are known.
    era: Mutex<Option<ProgramEra>>,
    headers: ToolHeaders,
}

impl Programs {
    fn of(&self, owner: Owner) -> Vec<Arc<Running>> {
        lock(&self.running).iter().filter(|it| it.owner == owner).cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.running).len()
    }

    fn remove(&self, running: &Arc<Running>) {
        lock(&self.running).retain(|it| !Arc::ptr_eq(it, running));
    }
}

impl McpRoute {
    /// Answers a request without a session.
    pub(super) async fn post_modern(
        &self,
        request: &RouteRequest,
        posted: ModernRequest,
    ) -> Result<RouteResponse, Refused> {
        for _ in 0..MAX_POSTS {
            let running = self.program_for(request, &posted)?;
            let attached = running.post(&posted, self.options.take_wait, request).await?;
            let Some(mut attached) = attached else { continue };
            match attached.answer().await {
                ModernAnswer::Json(status, body) => {
                    return Ok(request.json(status, body, || lost().answering(posted.id()).body()));
                }
                ModernAnswer::Elsewhere => {}
                ModernAnswer::Events | ModernAnswer::Wait(_) => {
                    let (writer, response) = request.events();
                    tokio::spawn(attached.deliver(writer));
                    return Ok(response);
                }
            }
        }
        Err(request.busy("the program did not take the request; try again later").into())
    }

    /// Returns the program with the call that the request continues, or one that can take the request.
    /// Starts one if there is none.
    fn program_for(
        &self,
        request: &RouteRequest,
        posted: &ModernRequest,
    ) -> Result<Arc<Running>, Refused> {
        let _deciding = lock(&self.programs.deciding);
        let running = self.programs.of(request.owner());
        let running: Vec<_> =
            running.into_iter().filter(|it| !it.state().program.is_over()).collect();
        if let Some(state) = posted.state() {
            let found = running.iter().find(|it| it.state().program.has_state(&state));
            // Otherwise, the state belongs to the program itself, or the program refuses it.
            if let Some(it) = found.or(running.first()) {
                return Ok(it.clone());
            }
        }
        let free = running.iter().find(|it| !it.state().program.is_occupied(posted));
        match free {
            Some(it) => Ok(it.clone()),
            None if running.len() >= MAX_PROGRAMS => {
                let oldest = running.iter().min_by_key(|it| it.state().program.waiting_until());
                let Some(it) = oldest else { return self.start_program(request) };
                tracing::info!("gave up the MCP call that has waited for input the longest");
                it.state().program.forget_waiting();
                Ok(it.clone())
            }
            None => self.start_program(request),
        }
    }

    fn start_program(&self, request: &RouteRequest) -> Result<Arc<Running>, Refused> {
        let busy = || request.busy("too many clients are connected or waiting; try again later");
        let place = self.lines.try_reserve().map_err(|_| busy())?;
        let era = *lock(&self.programs.era);
        let limits = ModernLimits { idle: self.options.idle, ..ModernLimits::default() };
        let headers = self.programs.headers.clone();
        let tokens = || Token::random().ok().map(|token| token.reveal().to_owned());
        let program = ModernProgram::new(self.clock.elapsed(), limits, era, headers, tokens);
        let (channel, line) = request.line();
        let state = Mutex::new(State { program, connections: HashMap::new() });
        let running = Arc::new(Running {
            owner: request.owner(),
            line,
            clock: self.clock,
            state,
            posting: AsyncMutex::default(),
            changed: Notify::new(),
            room: Notify::new(),
        });
        if self.is_full() {
            return Err(busy().into());
        }
        lock(&self.programs.running).push(running.clone());
        place.send(channel);
        let (programs, memory) = (self.programs.clone(), self.options.memory.clone());
        tokio::spawn(running.clone().run(programs, memory));
        Ok(running)
    }
}

/// A program that is in use.
struct Running {
    owner: Owner,
    line: RouteLine,
    clock: Instant,
    state: Mutex<State>,
    /// Only the task that holds this lock waits for room.
    posting: AsyncMutex<()>,
    /// Wakes the task when there may be messages for the program, or the deadline or the state of the
    /// program has changed.
    changed: Notify,
    /// Notified when the program may have room for further requests.
    room: Notify,
}

struct State {
    program: ModernProgram,
    /// The notifications that wake the connections of the calls.
    connections: HashMap<u64, Arc<Notify>>,
}

impl State {
    fn wake(&mut self) {
        let touched = self.program.take_touched();
        touched.iter().filter_map(|it| self.connections.get(it)).for_each(|it| it.notify_one());
    }
}

impl Running {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Takes a request. Returns `None` if the program has ended meanwhile.
    async fn post(
        self: &Arc<Self>,
        posted: &ModernRequest,
        take_wait: Duration,
        request: &RouteRequest,
    ) -> Result<Option<Attached>, Refused> {
        let turn = timeout(take_wait, async {
            let turn = self.posting.lock().await;
            while !self.state().program.may_post() {
                self.room.notified().await;
            }
            turn
        });
        let text = "the program did not take the messages in time; try again later";
        let _turn = turn.await.map_err(|_| request.busy(text))?;
        let mut state = self.state();
        if state.program.is_over() {
            return Ok(None);
        }
        let call = state.program.post(self.now(), posted)?;
        let more = Arc::new(Notify::new());
        state.connections.insert(call, more.clone());
        state.wake();
        drop(state);
        self.changed.notify_one();
        Ok(Some(Attached { running: self.clone(), call, more }))
    }

    /// Moves messages between the program and the calls until one of them ends.
    async fn run(self: Arc<Self>, programs: Arc<Programs>, memory: Option<MemoryBudget>) {
        let mut account = Account::of(memory.as_ref(), Holding::Queue);
        let mut is_era_known = false;
        loop {
            let (has_outgoing, deadline) = {
                let state = self.state();
                if state.program.is_over() {
                    break;
                }
                (state.program.has_outgoing(), state.program.deadline())
            };
            tokio::select! {
                () = self.line.room(), if has_outgoing => {
                    let message = self.state().program.outgoing();
                    if !message.is_some_and(|message| self.line.push(message)) {
                        break;
                    }
                }
                // If the program does not read, no more of its messages are handled.
                message = self.line.take(), if self.state().program.has_room() => {
                    let Some(message) = message else { break };
                    self.take(message);
                    self.line.handed_on();
                }
                () = until(self.clock, deadline) => {
                    let mut state = self.state();
                    state.program.expire(self.now());
                    state.wake();
                }
                () = self.changed.notified() => {}
                () = revoked(&account) => {}
            }
            self.room.notify_one();
            is_era_known = is_era_known || self.learn_era(&programs);
            if !self.count_memory(&mut account, memory.as_ref()) {
                tracing::warn!("an MCP program ended: too much memory is in use");
                break;
            }
        }
        programs.remove(&self);
        let mut state = self.state();
        if !state.program.is_over() {
            state.program.ended();
        }
        state.connections.values().for_each(|connection| connection.notify_one());
        let lost = state.program.lost();
        drop(state);
        self.learn_era(&programs);
        self.room.notify_one();
        self.line.end();
        if lost > 0 {
            self.line.lose(lost, &"their MCP requests had no connection that takes them");
        }
    }

    /// Takes a message of the program, and some of those that follow it.
    fn take(&self, message: Bytes) {
        let (now, mut state) = (self.now(), self.state());
        let (mut next, mut taken) = (Some(message), 0);
        while let Some(message) = next {
            state.program.from_program(now, message);
            taken += 1;
            let has_more = taken < TURN && state.program.has_room();
            next = if has_more { self.line.try_take() } else { None };
        }
        state.wake();
    }

    /// Records the versions that the program speaks. Returns whether they are known.
    fn learn_era(&self, programs: &Programs) -> bool {
        let Some(era) = self.state().program.era() else { return false };
        if lock(&programs.era).replace(era) != Some(era) {
            let versions = match era {
                ProgramEra::Modern => "2026-07-28",
                ProgramEra::Legacy => "up to 2025-11-25",
            };
            tracing::info!("the program speaks MCP {versions}");
        }
        true
    }

    /// Counts the memory of the requests, and ends the largest ones if it is needed elsewhere. Returns false if
    /// that is not enough.
    fn count_memory(&self, account: &mut Account, memory: Option<&MemoryBudget>) -> bool {
        let mut state = self.state();
        while account.set(state.program.held_bytes()).is_err() {
            if !state.program.shed() {
                return false;
            }
            tracing::warn!("an MCP request ended: too much memory is in use");
            state.wake();
            // An account that was revoked grants nothing more.
            *account = Account::of(memory, Holding::Queue);
        }
        true
    }
}

/// Completes when the memory of the account is needed elsewhere.
async fn revoked(account: &Account) {
    poll_fn(|cx| match account.check(cx.waker()) {
        Ok(()) => Poll::Pending,
        Err(_) => Poll::Ready(()),
    })
    .await;
}

/// The connection of a call. Dropping it ends the call, and cancels it if there is no response yet.
struct Attached {
    running: Arc<Running>,
    call: u64,
    more: Arc<Notify>,
}

impl Attached {
    /// Waits until the form of the response is known.
    async fn answer(&mut self) -> ModernAnswer {
        loop {
            let answer = self.running.state().program.answer(self.running.now(), self.call);
            let ModernAnswer::Wait(time) = answer else { return answer };
            tokio::select! {
                () = self.more.notified() => {}
                () = until(self.running.clock, Some(time)) => {}
            }
        }
    }

    /// Writes the events of the call until it ends or the client disconnects.
    async fn deliver(self, writer: EventWriter) {
        let next = |out: &mut BytesMut| match self.running.state().program.next(self.call, out) {
            ModernNext::Event => Next::Event,
            ModernNext::End => Next::End,
            ModernNext::Wait => Next::Wait,
        };
        deliver(writer, &self.more, next).await;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut state = self.running.state();
        state.program.close(self.running.now(), self.call);
        state.connections.remove(&self.call);
        state.wake();
        drop(state);
        self.running.changed.notify_one();
    }
}
