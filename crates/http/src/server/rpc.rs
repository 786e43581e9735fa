//! Calls by `POST /rpc`: one request or a batch, with the responses in the response body.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{
    Answers, Dialect, INVALID_REQUEST, Invalid, Message, PARSE_ERROR, Response as Answer, classify,
    write_error, write_response,
};
use tieline_proto::websocket::{Close, CloseCode};
use tieline_transport::{
    Account, ChildExit, CloseReason, Holding, Incoming, MemoryBudget, MemoryRefused, Owner,
};
use tokio::time::timeout;

use super::Server;
use super::body::{Body, Inbound, JSON, answer, counted, line, read};
use super::count::count;
use super::events::open_call;
use super::exits;
use super::route::{busy, overloaded, refuse};
use crate::events::{ChannelBackend, Outward};

/// The path of calls that are a single POST.
pub(super) const RPC_PATH: &str = "/rpc";

/// The code of the error for a program that has ended or has not answered.
const SERVER_ERROR: i64 = -32000;

/// The dialect of the program's messages, which may omit the version.
const LENIENT: Dialect = {
    let mut lenient = Dialect::STRICT;
    lenient.version = false;
    lenient
};

/// Opens a line for the call and waits for the responses.
pub(super) async fn call(
    server: &Arc<Server>,
    owner: Owner,
    request: Request<Inbound>,
) -> Response<Body> {
    let Ok(place) = server.rpc.clone().try_acquire_owned() else {
        return busy(server, "too many concurrent calls; try again later");
    };
    let max = server.web_socket.channel.max_message.bytes();
    let (body, held) = match read(server, request.into_body(), max, |_| ()).await {
        Ok(read) => read,
        Err(refused) => return *refused,
    };
    let asked = match Asked::of(body, server.json.unwrap_or_default()) {
        Ok(asked) => asked,
        Err((code, text)) => return json(StatusCode::BAD_REQUEST, error(b"null", code, &text)),
    };
    let Some(backend) = open_call(server, owner) else {
        return busy(server, "too many clients are waiting to be accepted; try again later");
    };
    count(&server.counters.rpc_calls);
    for message in &asked.messages {
        backend.push(Incoming::Message(message.clone()));
    }
    let mut waiting = Waiting::of(asked, server.memory.as_ref());
    // From here on, the line's queue counts the messages.
    drop(held);
    if waiting.open.is_empty() {
        backend.end_inward(CloseReason::ByPeer);
        // The call has only notifications: deliver them in the background, without waiting for a
        // response.
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
        server.lose(waiting.answers.len().max(1) as u64, &refused);
        backend.end(refused.into());
        // Not "try again later": the program may have carried out the request.
        let text = "the response was lost: the server has too little memory for it";
        return refuse(server, overloaded(text));
    }
    let exit = backend.child_exit();
    backend.end(CloseReason::ByPeer);
    let (status, text, data) = match ended {
        Ok(None) => (StatusCode::OK, String::new(), None),
        Ok(Some(close)) => {
            let (text, data) = without_answer(server, &close, exit.as_ref());
            (StatusCode::BAD_GATEWAY, text, data)
        }
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the program did not answer in time".into(), None),
    };
    for id in std::mem::take(&mut waiting.open) {
        let data = data.as_ref().map(String::as_bytes);
        let error = write_error(&Dialect::STRICT, &id, SERVER_ERROR, &text, data);
        waiting.answers.push(error.into());
    }
    waiting.into_response(status)
}

/// The messages of a call, separated, so that the program need not support batches.
struct Asked {
    messages: Vec<Bytes>,
    /// The ids of the requests, as the client wrote them.
    ids: Vec<Bytes>,
    is_batch: bool,
    /// The errors for invalid messages in a batch.
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
        let mut asked =
            Self { messages: Vec::new(), ids: Vec::new(), is_batch, errors: Vec::new() };
        for part in parts {
            match &part {
                Message::Request(request) => {
                    asked.ids.push(Bytes::copy_from_slice(request.id()));
                    asked.messages.push(part.alone(&Dialect::STRICT, is_batch, limits));
                }
                Message::Notification(_) => {
                    asked.messages.push(part.alone(&Dialect::STRICT, is_batch, limits));
                }
                Message::Invalid(invalid) if is_batch => {
                    let text = invalid.problem().to_string();
                    asked.errors.push(error(invalid.id(), invalid.code(), &text));
                }
                Message::Invalid(invalid) => {
                    return Err((invalid.code(), invalid.problem().to_string()));
                }
                Message::Response(_) | Message::Batch(_) => {
                    return Err((
                        INVALID_REQUEST,
                        "a response is not expected here; send a request or a notification".into(),
                    ));
                }
            }
        }
        Ok(asked)
    }
}

/// The responses, and the requests that have no response yet.
struct Waiting {
    open: Vec<Bytes>,
    answers: Vec<Bytes>,
    is_batch: bool,
    /// The memory that the responses hold.
    account: Account,
    refused: Option<MemoryRefused>,
}

impl Waiting {
    fn of(asked: Asked, memory: Option<&MemoryBudget>) -> Self {
        let account = Account::of(memory, Holding::Queue);
        let Asked { ids: open, errors: answers, is_batch, .. } = asked;
        Self { open, answers, is_batch, account, refused: None }
    }

    /// Updates the counted memory. The responses count twice, because they are joined at the end.
    fn count_memory(&mut self) {
        let bytes: usize = self.answers.iter().map(Bytes::len).sum();
        if let Err(refused) = self.account.set(bytes.saturating_mul(2)) {
            self.refused = Some(refused);
        }
    }

    /// Receives messages until every request has its response. Returns the reason if the line ends
    /// earlier. All messages except responses are dropped.
    async fn gather(&mut self, backend: &ChannelBackend) -> Option<Close> {
        while !self.open.is_empty() {
            let next = poll_fn(|cx| {
                if let Err(refused) = self.account.check(cx.waker()) {
                    self.refused = Some(refused);
                    return Poll::Ready(Outward::End(Close::new(CloseCode::TRY_AGAIN)));
                }
                backend.poll_take(cx)
            });
            let message = match next.await {
                Outward::Message(message) => message,
                Outward::End(close) => return Some(close),
            };
            backend.handed_on();
            match classify(message, &LENIENT, Limits::default()) {
                Message::Batch(several) => several.into_iter().for_each(|one| self.take(one, true)),
                one => self.take(one, false),
            }
            self.count_memory();
            if self.refused.is_some() {
                return Some(Close::new(CloseCode::TRY_AGAIN));
            }
        }
        None
    }

    fn take(&mut self, message: Message, is_in_batch: bool) {
        match message {
            Message::Response(response) => self.take_response(&response, is_in_batch),
            Message::Invalid(invalid) => self.take_invalid(&invalid),
            _ => {}
        }
    }

    /// Settles a request with its response. If the id is spelled as in the request, the response is
    /// passed on unchanged; otherwise, it is rewritten with the client's spelling, which may be the only
    /// one that the client recognizes.
    fn take_response(&mut self, response: &Answer, is_in_batch: bool) {
        let Some(id) = self.settle(response.answers()) else { return };
        self.answers.push(match response.outcome() {
            _ if !is_in_batch && id == response.id() => Bytes::copy_from_slice(response.message()),
            outcome => write_response(&Dialect::STRICT, &id, outcome).into(),
        });
    }

    /// Settles each request whose id is in an invalid message, with an error.
    fn take_invalid(&mut self, invalid: &Invalid) {
        for answers in invalid.answers() {
            let Some(id) = self.settle(answers) else { continue };
            self.answers.push(error(&id, SERVER_ERROR, &invalid.instead_of_response()));
        }
    }

    /// Removes the answered request, and returns its id as the client wrote it.
    fn settle(&mut self, answers: Answers<'_>) -> Option<Bytes> {
        let place = answers.find(self.open.iter().enumerate())?;
        Some(self.open.swap_remove(place))
    }

    /// Creates the response, whose body is counted as held memory until the client has taken it.
    fn into_response(mut self, status: StatusCode) -> Response<Body> {
        let answers: Vec<&[u8]> = self.answers.iter().map(|it| &**it).collect();
        let joined = answers.join(&b","[..]);
        let body: Bytes = match self.is_batch {
            true => [&b"["[..], &joined, b"]"].concat().into(),
            false => joined.into(),
        };
        // This cannot fail: the amount is smaller than before, because the responses were counted twice.
        let _ = self.account.set(body.len());
        counted(status, body, self.account)
    }
}

/// Waits until a line has delivered its messages and ends by itself. Drops the messages that the program
/// sends.
async fn drain(backend: ChannelBackend, limit: std::time::Duration) {
    let _ = timeout(limit, async {
        while let Outward::Message(_) = backend.take().await {
            backend.handed_on();
        }
    })
    .await;
}

/// Returns the message and the data of the error for a request whose program has ended.
fn without_answer(
    server: &Server,
    close: &Close,
    exit: Option<&ChildExit>,
) -> (String, Option<String>) {
    match exit {
        Some(exit) if !exit.is_clean() => (exit.failure(), Some(exits::as_json(server, exit))),
        None if !close.text.is_empty() => (format!("no answer: {}", close.text), None),
        _ => ("the program ended without answering".into(), None),
    }
}

fn error(id: &[u8], code: i64, text: &str) -> Bytes {
    write_error(&Dialect::STRICT, id, code, text, None).into()
}

fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    answer(status, JSON, body)
}
