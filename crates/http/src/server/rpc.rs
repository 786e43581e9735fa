//! A call by a POST of its own: one request or a batch, and the answers in the body of the answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{
    Answers, Dialect, Invalid, Message, Response as Answer, classify, write_error,
    write_notification, write_request, write_response,
};
use tieline_proto::websocket::{Close, CloseCode};
use tieline_transport::{
    Account, CloseReason, Holding, Incoming, MemoryBudget, MemoryRefused, Owner,
};
use tokio::time::timeout;

use super::Server;
use super::body::{Body, Inbound, answer, line, read};
use super::count::count;
use super::events::called;
use super::route::busy;
use crate::events::{ChannelBackend, Outward};

/// The path of calls by a POST of their own.
pub(super) const RPC_PATH: &str = "/rpc";

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
/// Of a program that has ended, or has not answered.
const SERVER_ERROR: i64 = -32000;

/// What answers may look like: a program need not say which version it speaks, and may join them.
const LENIENT: Dialect = {
    let mut lenient = Dialect::STRICT;
    lenient.version = false;
    lenient
};

/// As much of what is no valid answer is shown to the client.
const SHOWN: usize = 200;

/// Hands a call to a line of its own, and waits for its answers.
pub(super) async fn call(
    server: &Arc<Server>,
    owner: Owner,
    request: Request<Inbound>,
) -> Response<Body> {
    let Ok(place) = server.rpc.clone().try_acquire_owned() else {
        return busy(server, "there are too many calls at once; try again later");
    };
    let most = server.web_socket.channel.max_message.bytes();
    let (body, held) = match read(server, request.into_body(), most, |_| ()).await {
        Ok(read) => read,
        Err(refused) => return *refused,
    };
    let asked = match Asked::of(body, server.json.unwrap_or_default()) {
        Ok(asked) => asked,
        Err((code, text)) => return json(StatusCode::BAD_REQUEST, error(b"null", code, &text)),
    };
    let Some(backend) = called(server, owner) else {
        return busy(server, "there are too many at once; try again later");
    };
    count(&server.counters.rpc_calls);
    for message in &asked.messages {
        backend.push(Incoming::Message(message.clone()));
    }
    let mut waiting = Waiting::of(asked, server.memory.as_ref());
    // The line's queue has it now.
    drop(held);
    if waiting.open.is_empty() {
        backend.end_inward(CloseReason::ByPeer);
        // It is taken as long as the line likes, and nobody waits for it.
        let draining = drain(backend, server.limits.rpc_timeout);
        tokio::spawn(async move {
            draining.await;
            drop(place);
        });
        return match waiting.answers.is_empty() {
            true => line(StatusCode::ACCEPTED, ""),
            false => waiting.into_response(StatusCode::OK),
        };
    }
    let ended = timeout(server.limits.rpc_timeout, waiting.gather(&backend)).await;
    if let Some(refused) = waiting.refused {
        backend.end(refused.into());
        return busy(server, "the answer takes too much memory now; try again later");
    }
    backend.end(CloseReason::ByPeer);
    let (status, text) = match ended {
        Ok(true) => (StatusCode::OK, ""),
        Ok(false) => (StatusCode::BAD_GATEWAY, "it has ended without an answer"),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "there was no answer in time"),
    };
    for id in std::mem::take(&mut waiting.open) {
        waiting.answers.push(error(&id, SERVER_ERROR, text));
    }
    waiting.into_response(status)
}

/// What is asked: each message by itself, so that a program need not know batches.
struct Asked {
    messages: Vec<Bytes>,
    /// The ids of the requests, as they were written.
    ids: Vec<Bytes>,
    is_batch: bool,
    /// For what in a batch is no message.
    errors: Vec<Bytes>,
}

impl Asked {
    fn of(body: Bytes, limits: Limits) -> Result<Self, (i64, String)> {
        let body = body.slice_ref(body.trim_ascii());
        let (parts, is_batch) = match classify(body, &Dialect::STRICT, limits) {
            Message::Batch(parts) => (parts, true),
            Message::Invalid(invalid) if invalid.code() == PARSE_ERROR => {
                return Err((PARSE_ERROR, invalid.problem().to_string()));
            }
            one => (vec![one], false),
        };
        let alone = |message: &Bytes| on_one_line(message, limits);
        let mut asked =
            Self { messages: Vec::new(), ids: Vec::new(), is_batch, errors: Vec::new() };
        for part in parts {
            match part {
                Message::Request(request) => {
                    asked.ids.push(Bytes::copy_from_slice(request.id()));
                    asked.messages.push(match is_batch {
                        true => {
                            let (method, params) = (request.method(), request.params());
                            let id = request.id();
                            alone(&write_request(&Dialect::STRICT, id, &method, params).into())
                        }
                        false => alone(request.message()),
                    });
                }
                Message::Notification(told) => {
                    asked.messages.push(match is_batch {
                        true => {
                            let (method, params) = (told.method(), told.params());
                            alone(&write_notification(&Dialect::STRICT, &method, params).into())
                        }
                        false => alone(told.message()),
                    });
                }
                Message::Invalid(invalid) if is_batch => {
                    let text = invalid.problem().to_string();
                    asked.errors.push(error(invalid.id(), invalid.code(), &text));
                }
                Message::Invalid(invalid) => {
                    return Err((invalid.code(), invalid.problem().to_string()));
                }
                Message::Response(_) | Message::Batch(_) => {
                    return Err((INVALID_REQUEST, "nobody waits for an answer here".into()));
                }
            }
        }
        Ok(asked)
    }
}

/// As programs that take lines want it.
fn on_one_line(message: &Bytes, limits: Limits) -> Bytes {
    match message.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        false => message.clone(),
        true => tieline_proto::json::to_one_line(message, limits).unwrap_or_default(),
    }
}

/// The answers, and what still has none.
struct Waiting {
    open: Vec<Bytes>,
    answers: Vec<Bytes>,
    is_batch: bool,
    /// What the answers hold, as it is counted.
    account: Account,
    refused: Option<MemoryRefused>,
}

impl Waiting {
    fn of(asked: Asked, memory: Option<&MemoryBudget>) -> Self {
        let account = Account::of(memory, Holding::Queue);
        let Asked { ids: open, errors: answers, is_batch, .. } = asked;
        Self { open, answers, is_batch, account, refused: None }
    }

    /// Counts the answers, and that they are put together once all are there.
    fn count_memory(&mut self) {
        let bytes: usize = self.answers.iter().map(Bytes::len).sum();
        if let Err(refused) = self.account.set(bytes.saturating_mul(2)) {
            self.refused = Some(refused);
        }
    }

    /// Takes what comes until all is answered; false if the line ends before. What is no answer is for
    /// nobody here.
    async fn gather(&mut self, backend: &ChannelBackend) -> bool {
        while !self.open.is_empty() {
            let next = poll_fn(|cx| {
                if let Err(refused) = self.account.check(cx.waker()) {
                    self.refused = Some(refused);
                    return Poll::Ready(Outward::End(Close::new(CloseCode::TRY_AGAIN)));
                }
                backend.poll_take(cx)
            });
            let Outward::Message(message) = next.await else { return false };
            backend.handed_on();
            match classify(message, &LENIENT, Limits::default()) {
                Message::Batch(several) => several.into_iter().for_each(|one| self.take(one, true)),
                one => self.take(one, false),
            }
            self.count_memory();
            if self.refused.is_some() {
                return false;
            }
        }
        true
    }

    fn take(&mut self, message: Message, is_in_batch: bool) {
        match message {
            Message::Response(response) => self.take_response(&response, is_in_batch),
            Message::Invalid(invalid) => self.take_invalid(&invalid),
            _ => {}
        }
    }

    /// An answer whose id is written as it was asked goes on as it is; the client may know its id only in
    /// its own spelling.
    fn take_response(&mut self, response: &Answer, is_in_batch: bool) {
        let Some(id) = self.settle(response.answers()) else { return };
        self.answers.push(match response.outcome() {
            _ if !is_in_batch && id == response.id() => Bytes::copy_from_slice(response.message()),
            outcome => write_response(&Dialect::STRICT, &id, outcome).into(),
        });
    }

    /// What carries the id of a request and is no valid answer settles it all the same.
    fn take_invalid(&mut self, invalid: &Invalid) {
        for answers in invalid.answers() {
            let Some(id) = self.settle(answers) else { continue };
            let message = invalid.message();
            let shown = String::from_utf8_lossy(message.get(..SHOWN).unwrap_or(message));
            let problem = invalid.response_problem();
            let text = format!("the program's answer is not valid: {problem}; received: {shown:?}");
            self.answers.push(error(&id, SERVER_ERROR, &text));
        }
    }

    /// The id that is answered, as the client wrote it. It waits no longer.
    fn settle(&mut self, answers: Answers<'_>) -> Option<Bytes> {
        let place = answers.find(self.open.iter().enumerate())?;
        Some(self.open.swap_remove(place))
    }

    /// It is counted until the client has taken it.
    fn into_response(mut self, status: StatusCode) -> Response<Body> {
        let answers: Vec<&[u8]> = self.answers.iter().map(|it| &**it).collect();
        let joined = answers.join(&b","[..]);
        let body: Bytes = match self.is_batch {
            true => [&b"["[..], &joined, b"]"].concat().into(),
            false => joined.into(),
        };
        // Less than before, when they were counted twice.
        let _ = self.account.set(body.len());
        let mut response = json(status, Bytes::new());
        *response.body_mut() = Body::Counted(body, self.account);
        response
    }
}

/// Lets a line end by itself behind what it was told, and drops what it says.
async fn drain(backend: ChannelBackend, limit: std::time::Duration) {
    let _ = timeout(limit, async {
        while let Outward::Message(_) = backend.take().await {
            backend.handed_on();
        }
    })
    .await;
}

fn error(id: &[u8], code: i64, text: &str) -> Bytes {
    write_error(&Dialect::STRICT, id, code, text, None).into()
}

fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    answer(status, "application/json", body)
}
