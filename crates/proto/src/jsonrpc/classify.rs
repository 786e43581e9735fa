//! Classifying messages in one pass. Their members may be in any order.

use bytes::Bytes;

use super::{
    Dialect, Invalid, InvalidProblem, MAX_BATCH, MAX_ID, Message, Notification, Request, Response,
    Span,
};
use crate::json::{JsonError, Limits, Scanner, after_byte_order_mark};

/// Classifies `message`. Takes time linear in its length, and allocates only for the elements of a batch.
///
/// A message above the limits is [`Invalid`](Message::Invalid). It has an id if the id came before the
/// limit was exceeded.
pub fn classify(message: Bytes, dialect: &Dialect, limits: Limits) -> Message {
    let text = after_byte_order_mark(&message);
    let message = if text.len() < message.len() { message.slice_ref(text) } else { message };
    let shape = shape(&message, dialect, limits);
    shape.of(message)
}

/// The classification of a message, without its bytes.
enum Shape {
    Request { id: Span, method: Span, params: Option<Span> },
    Notification { method: Span, params: Option<Span> },
    Response { id: Option<Span>, outcome: Result<Span, Span> },
    Batch(Vec<Shape>),
    Invalid { id: Option<Span>, problem: InvalidProblem, is_response: bool, has_method: bool },
}

impl Shape {
    fn of(self, message: Bytes) -> Message {
        match self {
            Self::Request { id, method, params } => {
                Message::Request(Request { message, id, method, params })
            }
            Self::Notification { method, params } => {
                Message::Notification(Notification { message, method, params })
            }
            Self::Response { id, outcome } => Message::Response(Response { message, id, outcome }),
            Self::Batch(elements) => {
                let elements = elements.into_iter().map(|element| element.of(message.clone()));
                Message::Batch(elements.collect())
            }
            Self::Invalid { id, problem, is_response, has_method } => {
                Message::Invalid(Invalid { message, id, problem, is_response, has_method })
            }
        }
    }
}

fn shape(message: &[u8], dialect: &Dialect, limits: Limits) -> Shape {
    let mut scanner = match Scanner::new(message, limits) {
        Ok(scanner) => scanner,
        Err(error) => return invalid(InvalidProblem::Json(error)),
    };
    let shape = match scanner.enter(b'[') {
        Ok(true) => batch(message, &mut scanner, dialect),
        Ok(false) => Ok(one(message, &mut scanner, dialect)),
        Err(error) => Err(error),
    };
    // Trailing text makes the whole message invalid.
    let ended = match &shape {
        Ok(Shape::Invalid { problem: InvalidProblem::Json(_), .. }) | Err(_) => Ok(()),
        Ok(_) => scanner.end(),
    };
    match (shape, ended) {
        (Ok(shape), Ok(())) => shape,
        (Err(error), _) | (_, Err(error)) => invalid(InvalidProblem::Json(error)),
    }
}

/// Classifies the elements of a batch. An invalid element does not affect the others, but a JSON error
/// makes the whole batch invalid.
fn batch(message: &[u8], scanner: &mut Scanner<'_>, dialect: &Dialect) -> Result<Shape, JsonError> {
    let mut elements = Vec::new();
    let mut length = 0;
    while scanner.next_element(length == 0)? {
        length += 1;
        let element = one(message, scanner, dialect);
        if let Shape::Invalid { problem: InvalidProblem::Json(error), .. } = element {
            return Err(error);
        }
        // The rest is still scanned, because it may contain a JSON error.
        if dialect.batches && length <= MAX_BATCH {
            elements.push(element);
        }
    }
    Ok(match length {
        _ if !dialect.batches => invalid(InvalidProblem::NoBatches),
        0 => invalid(InvalidProblem::EmptyBatch),
        1..=MAX_BATCH => Shape::Batch(elements),
        _ => invalid(InvalidProblem::LongBatch),
    })
}

/// The ranges of the known members.
#[derive(Default)]
struct Members {
    jsonrpc: Option<Span>,
    id: Option<Span>,
    method: Option<Span>,
    params: Option<Span>,
    result: Option<Span>,
    error: Option<Span>,
    doubled: Option<&'static str>,
    /// True if a result or an error has begun, even if it exceeds the limits.
    answers: bool,
}

impl Members {
    #[inline]
    fn slot(&mut self, key: &[u8]) -> Option<(&'static str, &mut Option<Span>)> {
        Some(match key {
            b"jsonrpc" => ("jsonrpc", &mut self.jsonrpc),
            b"id" => ("id", &mut self.id),
            b"method" => ("method", &mut self.method),
            b"params" => ("params", &mut self.params),
            b"result" => {
                self.answers = true;
                ("result", &mut self.result)
            }
            b"error" => {
                self.answers = true;
                ("error", &mut self.error)
            }
            _ => return None,
        })
    }

    /// Returns the method without its quotes, if it is a string.
    fn method_name(&self, message: &[u8]) -> Option<Span> {
        let method = self.method.filter(|method| method.of(message).starts_with(b"\""))?;
        Some(Span { start: method.start + 1, end: method.end - 1 })
    }

    fn read(&mut self, scanner: &mut Scanner<'_>) -> Result<(), JsonError> {
        let mut first = true;
        while let Some(key) = scanner.next_key(first)? {
            first = false;
            let slot = self.slot(&key);
            let value = scanner.value()?;
            if let Some((name, slot)) = slot {
                if slot.replace(value.into()).is_some() {
                    self.doubled = self.doubled.or(Some(name));
                }
            }
        }
        Ok(())
    }
}

/// Classifies a message that is not a batch.
fn one(message: &[u8], scanner: &mut Scanner<'_>, dialect: &Dialect) -> Shape {
    let mut members = Members::default();
    match scanner.enter(b'{') {
        Ok(true) => {}
        Ok(false) => {
            let problem =
                scanner.value().map_or_else(InvalidProblem::Json, |_| InvalidProblem::NotAnObject);
            return invalid(problem);
        }
        Err(error) => return invalid(InvalidProblem::Json(error)),
    }
    let read = members.read(scanner);
    let judged = match read {
        Err(error) => Err(InvalidProblem::Json(error)),
        Ok(()) => judge(message, &members, dialect),
    };
    judged.unwrap_or_else(|problem| {
        let id = members.id.filter(|id| is_id(id.of(message)));
        let is_syntax_error = matches!(problem, InvalidProblem::Json(error) if !error.is_limit());
        let has_method = !is_syntax_error && members.method_name(message).is_some();
        Shape::Invalid {
            id: if is_syntax_error { None } else { id },
            problem,
            // Text that is not JSON is not treated as a response, because its intended kind is unknown.
            is_response: !is_syntax_error && !has_method && members.answers,
            has_method,
        }
    })
}

fn judge(message: &[u8], members: &Members, dialect: &Dialect) -> Result<Shape, InvalidProblem> {
    if let Some(member) = members.doubled {
        return Err(InvalidProblem::Doubled(member));
    }
    if dialect.version {
        let version = members.jsonrpc.ok_or(InvalidProblem::Missing("jsonrpc"))?;
        if version.of(message) != br#""2.0""# {
            return Err(InvalidProblem::Wrong("jsonrpc"));
        }
    }
    if members.id.is_some_and(|id| !is_id(id.of(message))) {
        return Err(InvalidProblem::Wrong("id"));
    }
    if let Some(method) = members.method_name(message) {
        let params = params(members.params, message)?;
        return Ok(match members.id {
            Some(id) => Shape::Request { id, method, params },
            None => Shape::Notification { method, params },
        });
    }
    if !members.answers {
        return Err(match members.method {
            Some(_) => InvalidProblem::Wrong("method"),
            None => InvalidProblem::Missing("method"),
        });
    }
    // Many peers add `"error":null` to a result; some add `"result":null` to an error, as JSON-RPC 1.0 did.
    let is_null = |span: &Span| span.of(message) == b"null";
    let error = members.error.filter(|error| !is_null(error));
    let result = members.result.filter(|result| error.is_none() || !is_null(result));
    match (members.id, result, error) {
        (_, Some(_), Some(_)) => Err(InvalidProblem::ResultAndError),
        (Some(_), Some(result), None) => {
            Ok(Shape::Response { id: members.id, outcome: Ok(result) })
        }
        (id, None, Some(error)) if error.of(message).starts_with(b"{") => {
            Ok(Shape::Response { id, outcome: Err(error) })
        }
        (_, None, Some(_)) => Err(InvalidProblem::Wrong("error")),
        (Some(_), None, None) => Err(InvalidProblem::Missing("result")),
        (None, _, None) => Err(InvalidProblem::Missing("id")),
    }
}

/// Returns whether `id` is a string, a number or `null`, of at most [`MAX_ID`] bytes.
fn is_id(id: &[u8]) -> bool {
    id.len() <= MAX_ID && matches!(id.first(), Some(b'"' | b'-' | b'0'..=b'9' | b'n'))
}

/// Checks the parameters. Some peers send `null`, which means that there are none.
fn params(params: Option<Span>, message: &[u8]) -> Result<Option<Span>, InvalidProblem> {
    match params.map(|params| params.of(message).first()) {
        None | Some(Some(b'n')) => Ok(None),
        Some(Some(b'{' | b'[')) => Ok(params),
        Some(_) => Err(InvalidProblem::Wrong("params")),
    }
}

fn invalid(problem: InvalidProblem) -> Shape {
    Shape::Invalid { id: None, problem, is_response: false, has_method: false }
}
