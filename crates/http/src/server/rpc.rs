//! A call by a POST of its own: one request or a batch, and the answers in the body of the answer.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use tieline_proto::json::{Limits, unescape};
use tieline_proto::jsonrpc::{
    Dialect, Message, classify, write_error, write_notification, write_request,
};
use tieline_transport::{CloseReason, Incoming, Owner};
use tokio::time::timeout;

use super::Server;
use super::body::{Body, Inbound, answer, line, read};
use super::count::count;
use super::events::called;
use super::route::busy;
use crate::events::{Far, Outward};

/// The path of calls by a POST of their own.
pub(super) const RPC_PATH: &str = "/rpc";

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
/// Of a program that has ended, or has not answered.
const SERVER_ERROR: i64 = -32000;

/// What answers may look like: a program need not say which version it speaks.
const LENIENT: Dialect = Dialect::XI;

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
    let Some(far) = called(server, owner) else {
        return busy(server, "there are too many at once; try again later");
    };
    count(&server.counters.rpc_calls);
    for message in &asked.messages {
        far.push(Incoming::Message(message.clone()));
    }
    let mut waiting = Waiting::of(asked);
    // The line's queue has it now.
    drop(held);
    if waiting.open.is_empty() {
        far.end_inward(CloseReason::ByPeer);
        // It is taken as long as the line likes, and nobody waits for it.
        let draining = drain(far, server.limits.rpc_timeout);
        tokio::spawn(async move {
            draining.await;
            drop(place);
        });
        return match waiting.answers.is_empty() {
            true => line(StatusCode::ACCEPTED, ""),
            false => json(StatusCode::OK, waiting.into_body()),
        };
    }
    let ended = timeout(server.limits.rpc_timeout, waiting.gather(&far)).await;
    far.end(CloseReason::ByPeer);
    let (status, text) = match ended {
        Ok(true) => (StatusCode::OK, ""),
        Ok(false) => (StatusCode::BAD_GATEWAY, "it has ended without an answer"),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "there was no answer in time"),
    };
    for id in std::mem::take(&mut waiting.open) {
        waiting.answers.push(error(&id, SERVER_ERROR, text));
    }
    json(status, waiting.into_body())
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
}

impl Waiting {
    fn of(asked: Asked) -> Self {
        Self { open: asked.ids, answers: asked.errors, is_batch: asked.is_batch }
    }

    /// Takes what comes until all is answered; false if the line ends before. What is no answer is for
    /// nobody here.
    async fn gather(&mut self, far: &Far) -> bool {
        while !self.open.is_empty() {
            let Outward::Message(message) = far.take().await else { return false };
            far.handed_on();
            let Message::Response(response) =
                classify(message.clone(), &LENIENT, Limits::default())
            else {
                continue;
            };
            if let Some(place) = self.open.iter().position(|id| is_same(id, response.id())) {
                self.open.swap_remove(place);
                self.answers.push(message);
            }
        }
        true
    }

    fn into_body(self) -> Bytes {
        let answers: Vec<&[u8]> = self.answers.iter().map(|it| &**it).collect();
        let joined = answers.join(&b","[..]);
        match self.is_batch {
            true => [&b"["[..], &joined, b"]"].concat().into(),
            false => joined.into(),
        }
    }
}

/// Whether two ids are one: a string may be written in more than one way.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let text = |id: &[u8]| {
        let text = std::str::from_utf8(id).ok()?.strip_prefix('"')?.strip_suffix('"')?;
        Some(unescape(text).into_owned())
    };
    one == other || text(one).is_some_and(|one| text(other) == Some(one))
}

/// Lets a line end by itself behind what it was told, and drops what it says.
async fn drain(far: Far, limit: std::time::Duration) {
    let _ = timeout(limit, async {
        while let Outward::Message(_) = far.take().await {
            far.handed_on();
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
