//! Drives the machine of a line: carries its messages, and sends its requests.

use std::collections::HashMap;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::Body;
use tieline_proto::{Exchange, ExchangeEvent, ExchangeRequest, ExchangeStep};
use tieline_transport::{Account, CloseReason, Holding, Incoming, MemoryRefused};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::connections::{Connections, cut};
use crate::events::{ChannelBackend, Outward};
use crate::task::Task;

/// How many events of requests may wait for the machine. A part of a body has at most 64 KiB.
const EVENTS: usize = 16;
/// How long the last request may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs the line until its channel is closed or dropped.
pub(super) async fn drive(
    mut machine: Box<dyn Exchange>,
    connections: Arc<Connections>,
    backend: ChannelBackend,
) {
    let memory = connections.memory();
    let mut account = Account::of(memory.as_ref(), Holding::Queue);
    let ended = run(&mut *machine, &connections, &backend, &mut account).await;
    let reason = match ended {
        Ok(()) => CloseReason::ByUs,
        Err(refused) => refused.into(),
    };
    if let Some(request) = machine.farewell() {
        let _ = timeout(FAREWELL, connections.ask(request)).await;
    }
    backend.end(reason);
}

async fn run(
    machine: &mut dyn Exchange,
    connections: &Arc<Connections>,
    backend: &ChannelBackend,
    account: &mut Account,
) -> Result<(), MemoryRefused> {
    let begun = Instant::now();
    let (sender, mut events) = mpsc::channel(EVENTS);
    let mut requests = Requests { connections, sender, running: HashMap::new() };
    let mut has_input_ended = false;
    loop {
        while let Some(step) = machine.step(begun.elapsed(), random()) {
            match step {
                ExchangeStep::Start(number, request) => requests.start(number, request),
                ExchangeStep::Stop(number) => _ = requests.running.remove(&number),
                ExchangeStep::Deliver(message) => _ = backend.push(Incoming::Message(message)),
                ExchangeStep::Fault(fault) => _ = backend.push(Incoming::Fault(fault)),
                ExchangeStep::Warn(text) => tracing::warn!("{text}"),
                ExchangeStep::End => return Ok(()),
            }
        }
        account.set(machine.held_bytes())?;
        if machine.has_sent_all() {
            backend.handed_on();
            if has_input_ended {
                backend.ended_input();
            }
        }
        let takes = !has_input_ended && machine.has_room();
        let has_room = backend.has_room();
        let wake_at = machine.wake_at();
        tokio::select! {
            outward = backend.take(), if takes => match outward {
                Outward::Message(message) => machine.send(begun.elapsed(), message),
                Outward::End(_) if backend.ends_input() && !backend.is_over() => {
                    has_input_ended = true;
                    machine.end_input(begun.elapsed());
                }
                Outward::End(_) => return Ok(()),
            },
            () = backend.over(), if !takes => return Ok(()),
            () = backend.room(), if !has_room => {}
            Some((number, event)) = events.recv(), if has_room => {
                if requests.is_running(number, &event) {
                    machine.receive(begun.elapsed(), number, event);
                }
            }
            () = async {
                match wake_at {
                    Some(at) => sleep_until(begun + at).await,
                    None => pending().await,
                }
            } => {}
        }
    }
}

/// Returns a number that is evenly distributed from 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 2];
    // Without randomness, attempts of several clients coincide.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX)
}

/// The requests in flight.
struct Requests<'a> {
    connections: &'a Arc<Connections>,
    sender: mpsc::Sender<(u64, ExchangeEvent)>,
    running: HashMap<u64, Task>,
}

impl Requests<'_> {
    fn start(&mut self, number: u64, request: ExchangeRequest) {
        let (connections, sender) = (self.connections.clone(), self.sender.clone());
        let task = tokio::spawn(async move {
            let last = exchange(&connections, number, request, &sender).await;
            let _ = sender.send((number, last)).await;
        });
        self.running.insert(number, Task(task.abort_handle()));
    }

    /// Returns whether the request of an event was not stopped, and forgets it after its last event.
    fn is_running(&mut self, number: u64, event: &ExchangeEvent) -> bool {
        match event {
            ExchangeEvent::Ended | ExchangeEvent::Failed(_) => {
                self.running.remove(&number).is_some()
            }
            _ => self.running.contains_key(&number),
        }
    }
}

/// Sends a request and passes on the response. Returns the last event.
async fn exchange(
    connections: &Connections,
    number: u64,
    request: ExchangeRequest,
    sender: &mpsc::Sender<(u64, ExchangeEvent)>,
) -> ExchangeEvent {
    let (response, connection) = match connections.ask(request).await {
        Ok(asked) => asked,
        Err(failure) => return ExchangeEvent::Failed(failure),
    };
    let (head, mut body) = response.into_parts();
    let headers = ExchangeEvent::Head(head.status.as_u16(), headers(&head.headers));
    let _ = sender.send((number, headers)).await;
    loop {
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            None => break,
            Some(Err(error)) => return ExchangeEvent::Failed(cut(&error, true)),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    let _ = sender.send((number, ExchangeEvent::Body(bytes))).await;
                }
            }
        }
    }
    connections.keep(connection);
    ExchangeEvent::Ended
}

fn headers(map: &HeaderMap) -> Vec<(String, Bytes)> {
    let of = |value: &hyper::header::HeaderValue| Bytes::copy_from_slice(value.as_bytes());
    map.iter().map(|(name, value)| (name.as_str().to_owned(), of(value))).collect()
}
