//! The interface of protocols whose messages travel in HTTP requests and their responses.
//!
//! A machine decides which requests are sent and what their responses mean. It has no I/O; an HTTP client drives it.

use std::time::Duration;

use bytes::Bytes;

use crate::Fault;

/// A protocol on the client's side, as a machine.
///
/// `now` is the time since any fixed moment. The driver calls [`step`](Self::step) until it returns `None` after every
/// other call, and again at [`wake_at`](Self::wake_at).
pub trait Exchange: Send + 'static {
    /// Returns whether [`send`](Self::send) may be called. If not, messages have to wait.
    fn has_room(&self) -> bool;

    /// Takes a message to send.
    fn send(&mut self, now: Duration, message: Bytes);

    /// Records that no message follows. The machine ends with [`ExchangeStep::End`] when everything is answered.
    fn end_input(&mut self, now: Duration);

    /// Takes an event of the request with this number.
    fn receive(&mut self, now: Duration, number: u64, event: ExchangeEvent);

    /// Returns the next thing to do. `random` is evenly distributed from 0 to 1.
    fn step(&mut self, now: Duration, random: f64) -> Option<ExchangeStep>;

    /// Returns when [`step`](Self::step) has something to do without another call.
    fn wake_at(&self) -> Option<Duration>;

    /// Returns whether each message is in a request that was started.
    fn has_sent_all(&self) -> bool;

    /// Returns the number of bytes that the machine holds.
    fn held_bytes(&self) -> usize;

    /// Returns the last request, if one is needed. It is sent after everything else has stopped.
    fn farewell(&mut self) -> Option<ExchangeRequest>;
}

/// What the driver of an [`Exchange`] has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExchangeStep {
    /// Send a request. Its events have this number, which no other request in flight has.
    Start(u64, ExchangeRequest),
    /// Close the connection of this request. No event of it may follow.
    Stop(u64),
    /// Deliver a message.
    Deliver(Bytes),
    /// Report a message that could not be read.
    Fault(Fault),
    /// Log a warning.
    Warn(String),
    /// End the line: the input has ended, and everything is answered.
    End,
}

/// An HTTP request to the endpoint's URL. The driver adds `Host` and the user's credentials and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeRequest {
    /// The HTTP method.
    pub method: ExchangeMethod,
    /// Lower-case names and values of headers. Values are printable ASCII.
    pub headers: Vec<(String, String)>,
    /// The body; empty if there is none.
    pub body: Bytes,
}

/// The HTTP method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeMethod {
    /// GET.
    Get,
    /// POST.
    Post,
    /// DELETE.
    Delete,
}

/// An event of a request in flight. [`Ended`](Self::Ended) and [`Failed`](Self::Failed) are its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExchangeEvent {
    /// The head of the response: the status, and lower-case names and values of headers.
    Head(u16, Vec<(String, Bytes)>),
    /// Bytes of the body.
    Body(Bytes),
    /// The body is complete.
    Ended,
    /// There is no response, or the body was cut off.
    Failed(ExchangeFailure),
}

/// Why a request has no complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeFailure {
    /// What failed, and what to try.
    pub text: String,
    /// Whether the server may have received the request.
    pub is_sent: bool,
    /// Whether another attempt may succeed.
    pub is_temporary: bool,
}
