//! A limit on the memory that all lines hold together.
//!
//! Each line has its own limits, but many lines at their limits need more memory than a machine has.
//! Anything that grows beyond 64 KiB (an incomplete message, a queue for a slow reader, the
//! unacknowledged messages of a session) is counted here. Smaller buffers are not counted and cost
//! nothing.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tieline_proto::ByteSize;
use tokio::time::{Sleep, sleep};

/// The unit in which memory is counted. A buffer of at most one unit is not counted.
const UNIT: usize = 64 * 1024;

/// A limit on the memory that all lines hold together. Clones share it.
///
/// When the limit is exceeded, the largest incomplete message is refused, and its line ends with
/// [`NoMemory`](crate::CloseReason::NoMemory). If there is no incomplete message, the line with the
/// longest queue ends. Until the ended line has released its memory, the others may exceed the limit by
/// up to a quarter; a message that needs even more waits.
///
/// # Examples
///
/// ```
/// use tieline_proto::ByteSize;
/// use tieline_transport::{Holding, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(1));
/// let mut small = budget.account(Holding::Message);
/// let mut large = budget.account(Holding::Message);
/// assert!(small.set(300 << 10).is_ok());
/// assert!(large.set(2 << 20).is_err(), "it would be the largest");
/// drop(small);
/// assert_eq!(budget.used(), ByteSize::new(0));
/// ```
#[derive(Clone)]
pub struct MemoryBudget(Arc<Budget>);

struct Budget {
    limit: usize,
    refused: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: usize,
    /// The part of `used` that belongs to revoked accounts.
    leaving: usize,
    next: u64,
    holders: HashMap<u64, Holder>,
    /// Wakers of accounts that wait until revoked ones are dropped.
    waiting: Vec<Waker>,
}

struct Holder {
    bytes: usize,
    holding: Holding,
    flag: Arc<Flag>,
}

/// A flag that is set when an account is revoked.
#[derive(Default)]
struct Flag {
    is_revoked: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// The kind of data that an account holds. Accounts of incomplete messages are revoked before those of
/// queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holding {
    /// Complete messages that wait for a reader.
    Queue,
    /// An incomplete message.
    Message,
}

impl MemoryBudget {
    /// Creates a budget of `limit` bytes for all lines that share it.
    pub fn new(limit: ByteSize) -> Self {
        let (refused, state) = (AtomicU64::new(0), Mutex::default());
        Self(Arc::new(Budget { limit: limit.bytes(), refused, state }))
    }

    /// Creates an account that holds nothing yet.
    pub fn account(&self, holding: Holding) -> Account {
        Account { budget: Some(self.clone()), holding, open: None, deadline: None }
    }

    /// Returns the limit.
    pub fn limit(&self) -> ByteSize {
        ByteSize::new(self.0.limit)
    }

    /// Returns how much is held now.
    pub fn used(&self) -> ByteSize {
        ByteSize::new(self.state().used)
    }

    /// Returns how many lines were ended because the limit was exceeded.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    fn refusal(&self, bytes: usize) -> MemoryRefused {
        MemoryRefused { held: ByteSize::new(bytes), limit: self.limit() }
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget").field("limit", &self.limit()).finish_non_exhaustive()
    }
}

/// The share of a [`MemoryBudget`] that one buffer or queue holds. Dropping it releases the share.
pub struct Account {
    budget: Option<MemoryBudget>,
    holding: Holding,
    /// `None` while nothing is counted.
    open: Option<Open>,
    /// When to stop waiting for revoked accounts.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// How long an account waits for revoked accounts to be dropped.
const PATIENCE: Duration = Duration::from_secs(1);

struct Open {
    id: u64,
    counted: usize,
    flag: Arc<Flag>,
}

impl Account {
    /// Creates an account without a budget, which grants every request.
    pub const fn unbounded() -> Self {
        Self { budget: None, holding: Holding::Queue, open: None, deadline: None }
    }

    /// Creates an account of `budget`, or an unbounded one without a budget.
    pub fn of(budget: Option<&MemoryBudget>, holding: Holding) -> Self {
        budget.map_or(const { Self::unbounded() }, |budget| budget.account(holding))
    }

    /// Sets the size of this account to `bytes`. Call it before allocating memory and after releasing some.
    ///
    /// # Errors
    /// The limit is exceeded, or this account was revoked. End the line and drop the account. No memory
    /// was granted.
    #[inline]
    pub fn set(&mut self, bytes: usize) -> Result<(), MemoryRefused> {
        let counted = counted(bytes);
        match self.is_set(counted) {
            true => Ok(()),
            false => self.change(counted, None).map_err(|denied| self.give_up(denied)),
        }
    }

    /// Sets the size like [`set`](Self::set), but waits if revoked accounts are about to release enough
    /// memory. It waits for at most a second, because a line that is not polled does not end. Needs a
    /// tokio runtime with timers enabled.
    ///
    /// # Errors
    /// See [`set`](Self::set).
    #[inline]
    pub fn poll_set(
        &mut self,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), MemoryRefused>> {
        let counted = counted(bytes);
        match self.is_set(counted) {
            true => Poll::Ready(Ok(())),
            false => self.poll_change(counted, cx),
        }
    }

    #[inline]
    fn is_set(&self, counted: usize) -> bool {
        match &self.open {
            None => counted == 0,
            Some(open) => open.counted == counted && !open.flag.is_revoked.load(Relaxed),
        }
    }

    #[cold]
    fn poll_change(
        &mut self,
        counted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), MemoryRefused>> {
        match self.change(counted, Some(cx.waker())) {
            Err(denied) if denied.is_for_now => {
                let timer = self.deadline.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Err(self.give_up(denied)))
            }
            changed => {
                self.deadline = None;
                Poll::Ready(changed.map_err(|denied| denied.refused))
            }
        }
    }

    /// Stops waiting, and counts the refusal.
    fn give_up(&mut self, denied: Denied) -> MemoryRefused {
        self.deadline = None;
        if let (true, Some(budget)) = (denied.is_for_now, &self.budget) {
            budget.0.refused.fetch_add(1, Relaxed);
        }
        denied.refused
    }

    /// Returns true if the account was revoked.
    pub fn is_revoked(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.flag.is_revoked.load(Relaxed))
    }

    /// Returns an error if the account was revoked. Otherwise, registers `waker`, which is woken when
    /// that happens.
    #[inline]
    pub fn check(&self, waker: &Waker) -> Result<(), MemoryRefused> {
        let Some(open) = &self.open else { return Ok(()) };
        open.flag.watch(waker);
        match (open.flag.is_revoked.load(Relaxed), &self.budget) {
            (true, Some(budget)) => Err(budget.refusal(open.counted)),
            _ => Ok(()),
        }
    }

    /// Changes the counted size. If there is no room yet but may be later, `waker` is woken then.
    #[cold]
    fn change(&mut self, counted: usize, waker: Option<&Waker>) -> Result<(), Denied> {
        let Some(budget) = &self.budget else { return Ok(()) };
        if counted == 0 {
            self.open.take().into_iter().for_each(|open| open.close(budget));
            return Ok(());
        }
        let mut state = budget.state();
        let before = self.open.as_ref().map_or(0, |open| open.counted);
        if self.is_revoked() {
            return Err(Denied { refused: budget.refusal(before), is_for_now: false });
        }
        let mut revoked = Vec::new();
        if counted > before {
            let me = (self.holding, counted);
            let id = self.open.as_ref().map(|open| open.id);
            let room = state.make_room(budget.0.limit, counted - before, id, me, &mut revoked);
            let more = revoked.len() as u64 + u64::from(room == Room::None);
            if more > 0 {
                budget.0.refused.fetch_add(more, Relaxed);
            }
            if room != Room::Granted {
                let is_for_now = room == Room::Later;
                if let (true, Some(waker)) = (is_for_now, waker) {
                    state.wait(waker);
                    self.open.iter().for_each(|open| open.flag.watch(waker));
                }
                drop(state);
                revoked.iter().for_each(|flag| flag.wake());
                return Err(Denied { refused: budget.refusal(counted), is_for_now });
            }
        }
        let open = self.open.get_or_insert_with(|| state.open(self.holding));
        state.used = state.used - open.counted + counted;
        open.counted = counted;
        if let Some(holder) = state.holders.get_mut(&open.id) {
            holder.bytes = counted;
        }
        let freed = if counted < before { std::mem::take(&mut state.waiting) } else { Vec::new() };
        drop(state);
        freed.into_iter().for_each(Waker::wake);
        revoked.iter().for_each(|flag| flag.wake());
        Ok(())
    }
}

impl Open {
    /// Releases all counted memory.
    fn close(self, budget: &MemoryBudget) {
        let mut state = budget.state();
        state.used -= self.counted;
        if self.flag.is_revoked.load(Relaxed) {
            state.leaving -= self.counted;
        }
        state.holders.remove(&self.id);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let (Some(open), Some(budget)) = (self.open.take(), &self.budget) {
            open.close(budget);
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = self.open.as_ref().map_or(0, |open| open.counted);
        f.debug_struct("Account").field("counted", &counted).finish_non_exhaustive()
    }
}

impl State {
    fn open(&mut self, holding: Holding) -> Open {
        let (id, flag) = (self.next, Arc::new(Flag::default()));
        self.next += 1;
        self.holders.insert(id, Holder { bytes: 0, holding, flag: flag.clone() });
        Open { id, counted: 0, flag }
    }

    /// Decides whether the account `id` is granted `extra` bytes; `me` is its kind and its new size.
    /// Revokes larger accounts to make room.
    fn make_room(
        &mut self,
        limit: usize,
        extra: usize,
        id: Option<u64>,
        me: (Holding, usize),
        revoked: &mut Vec<Arc<Flag>>,
    ) -> Room {
        let most = limit.saturating_add(limit / 4);
        loop {
            let wanted = self.used.saturating_add(extra);
            if wanted - self.leaving.min(wanted) <= limit {
                // Revoked accounts are dropped as soon as their lines are polled; until then the limit
                // may be exceeded by a quarter.
                return if wanted <= most { Room::Granted } else { Room::Later };
            }
            let others = self.holders.iter_mut().filter(|(other, holder)| {
                Some(**other) != id && !holder.flag.is_revoked.load(Relaxed)
            });
            let largest = others.map(|(_, it)| it).max_by_key(|it| (it.holding, it.bytes));
            match largest {
                Some(largest) if (largest.holding, largest.bytes) > me => {
                    largest.flag.is_revoked.store(true, Relaxed);
                    self.leaving += largest.bytes;
                    revoked.push(largest.flag.clone());
                }
                _ => return Room::None,
            }
        }
    }

    fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|known| known.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }
}

/// The result of a request for room.
#[derive(Clone, Copy, PartialEq)]
enum Room {
    Granted,
    /// The request can be granted as soon as revoked accounts are dropped.
    Later,
    None,
}

/// The reason why an account was not granted its new size.
struct Denied {
    refused: MemoryRefused,
    /// True if there will be room once revoked accounts are dropped.
    is_for_now: bool,
}

/// Returns how many bytes are counted for a buffer of `bytes` bytes.
#[inline]
fn counted(bytes: usize) -> usize {
    if bytes <= UNIT { 0 } else { bytes.div_ceil(UNIT).saturating_mul(UNIT) }
}

impl Flag {
    fn watch(&self, waker: &Waker) {
        let mut known = lock(&self.waker);
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    fn wake(&self) {
        let waker = lock(&self.waker).take();
        waker.into_iter().for_each(Waker::wake);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of a line that had to release its memory because the memory limit of all lines was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRefused {
    /// How much the line held or requested.
    pub held: ByteSize,
    /// The limit of all lines together.
    pub limit: ByteSize,
}

impl MemoryRefused {
    /// Returns the `MemoryRefused` inside an I/O error, if there is one.
    pub fn in_error(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl fmt::Display for MemoryRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, limit } = self;
        write!(f, "out of memory: the line needed {held}; all lines together may use {limit}")
    }
}

impl Error for MemoryRefused {}

impl From<MemoryRefused> for io::Error {
    fn from(refused: MemoryRefused) -> Self {
        Self::new(io::ErrorKind::OutOfMemory, refused)
    }
}

#[cfg(test)]
mod tests;
