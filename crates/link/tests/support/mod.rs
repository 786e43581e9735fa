//! In-memory lines whose far ends the test controls, and children that it can kill.

#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tieline_link::{LineState, LineStates, Link, LinkOptions};
pub(crate) use tieline_testkit::wait::{poll_once, within};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, CloseReason, DynConnector, Endpoint, ErrorKind, Incoming,
    MemoryChannel, Operation, Options, Receiver, ReceiverExt, Registry, Reset, TransportError,
    memory_pair,
};
use tokio::sync::{mpsc, watch};

/// The outcome of an attempt to connect.
pub(crate) enum Step {
    Line,
    Fail(ErrorKind),
    /// Waits for [`World::go_on`], and then connects a line.
    Wait,
}

/// A connector that follows a script, and afterwards always connects a line.
pub(crate) struct World {
    script: Mutex<VecDeque<Step>>,
    far_ends: mpsc::UnboundedSender<MemoryChannel>,
    go_on: watch::Sender<bool>,
    /// How many attempts are waiting.
    pub(crate) waiting: watch::Sender<usize>,
}

pub(crate) type FarEnds = mpsc::UnboundedReceiver<MemoryChannel>;

impl World {
    pub(crate) fn new(script: impl IntoIterator<Item = Step>) -> (Arc<Self>, FarEnds) {
        let (far_ends, given) = mpsc::unbounded_channel();
        let script = Mutex::new(script.into_iter().collect());
        let (go_on, waiting) = (watch::Sender::new(false), watch::Sender::new(0));
        (Arc::new(Self { script, far_ends, go_on, waiting }), given)
    }

    pub(crate) fn go_on(&self) {
        self.go_on.send_replace(true);
    }

    /// Waits until this many attempts are waiting.
    pub(crate) async fn waits(&self, wanted: usize) {
        let mut waiting = self.waiting.subscribe();
        within("an attempt", waiting.wait_for(|waiting| *waiting == wanted)).await.unwrap();
    }
}

impl DynConnector for World {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async move {
            let step = self.script.lock().unwrap().pop_front().unwrap_or(Step::Line);
            match step {
                Step::Line => {}
                Step::Fail(kind) => return Err(TransportError::new(kind, Operation::Connect)),
                Step::Wait => {
                    let waits = Waits::new(&self.waiting);
                    self.go_on.subscribe().wait_for(|go_on| *go_on).await.unwrap();
                    drop(waits);
                }
            }
            let (ours, theirs) = memory_pair();
            let _ = self.far_ends.send(theirs);
            Ok(ours.boxed())
        })
    }
}

/// Counts a waiting attempt until it is dropped.
struct Waits<'a>(&'a watch::Sender<usize>);

impl<'a> Waits<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

/// Returns a link with a scripted connector, and the far end of its first line.
pub(crate) async fn link(
    script: impl IntoIterator<Item = Step>,
    options: LinkOptions,
) -> (Link, MemoryChannel, Arc<World>, FarEnds) {
    let (world, mut far_ends) = World::new(script);
    let link = Link::connect(world.clone(), options).await.unwrap();
    let far = far_ends.recv().await.unwrap();
    (link, far, world, far_ends)
}

/// Returns a connector that starts a shell with this script.
pub(crate) fn shell(script: &str) -> Arc<dyn DynConnector> {
    let endpoint = Endpoint::exec("sh", ["-c", script]);
    Registry::new().connector(&endpoint, &Options::default()).unwrap().into()
}

/// Kills a child whose process ID was received by [`pid`].
pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

pub(crate) async fn message(receiver: &mut impl Receiver) -> String {
    match within("a message", receiver.recv()).await {
        Incoming::Message(message) => String::from_utf8(message.to_vec()).unwrap(),
        other => panic!("no message: {other:?}"),
    }
}

pub(crate) async fn pid(receiver: &mut impl Receiver) -> u32 {
    message(receiver).await.parse().unwrap()
}

pub(crate) async fn reset(receiver: &mut impl Receiver) -> Reset {
    match within("a reset", receiver.recv()).await {
        Incoming::Reset(reset) => *reset,
        other => panic!("no reset: {other:?}"),
    }
}

pub(crate) async fn end(receiver: &mut impl Receiver) -> CloseReason {
    match within("the end", receiver.recv()).await {
        Incoming::End(reason) => reason,
        other => panic!("not the end: {other:?}"),
    }
}

/// Receives everything up to the end.
pub(crate) async fn drain(receiver: &mut impl Receiver) -> CloseReason {
    loop {
        if let Incoming::End(reason) = within("the end", receiver.recv()).await {
            return reason;
        }
    }
}

/// Waits for a state for which `wanted` returns true.
pub(crate) async fn state(
    states: &mut LineStates,
    wanted: impl FnMut(&LineState) -> bool,
) -> LineState {
    within("a state", states.wait_for(wanted)).await.expect("the states have ended")
}

/// Returns the final state.
pub(crate) async fn last(states: &mut LineStates) -> (bool, CloseReason) {
    let mut last = None;
    while let Some(state) = within("a state", states.next()).await {
        last = Some(state);
    }
    match last {
        Some(LineState::Closed { by_us, reason }) => (by_us, reason),
        other => panic!("not the end: {other:?}"),
    }
}
