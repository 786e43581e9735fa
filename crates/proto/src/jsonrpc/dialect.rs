//! What differs between those who speak JSON-RPC, as data.

use super::classify::member;
use super::write::write_notification;
use super::{OVERLOADED, Request, TraceParent};

/// How a dialect of JSON-RPC differs from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dialect {
    /// Its name, as options have it.
    pub name: &'static str,
    /// Messages have a `jsonrpc` member, which says `"2.0"`.
    pub version: bool,
    /// Several messages may come in an array.
    pub batches: bool,
    /// How a call is cancelled.
    pub cancel: Option<CancelStyle>,
    /// How a call under way tells of its progress.
    pub progress: Option<ProgressStyle>,
    /// The object in the parameters of a request in which the trace stands that it belongs to.
    pub trace: Option<&'static str>,
    /// What a program that was started again has to be told before it can take the place of the one
    /// before it.
    pub state: State,
    /// A gateway may add messages to the stream: an error in place of a lost answer, or a cancellation.
    pub adds_messages: bool,
    /// The error code for requests that a program did not answer before it ended.
    pub gone: i64,
}

/// What a program knows from the messages before, and has to be told again after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Nothing: every message stands for itself, as far as anybody can tell.
    Unknown,
    /// What its client opened with a handshake, and some of what followed.
    Handshake(&'static Handshake),
    /// State that cannot be given to another program.
    Lost,
}

/// The handshake that opens a line, and what else makes up the state of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The request that opens it.
    pub request: &'static str,
    /// The notification that confirms its answer.
    pub confirmation: Option<&'static str>,
    /// The parameter of that request that has the process ID of the client, for the program to watch.
    pub process: Option<&'static str>,
    /// The methods behind which the client wants no program any more.
    pub ends: &'static [&'static str],
    /// Messages of which the latest counts.
    pub latest: &'static [&'static str],
    /// Messages of which each counts.
    pub every: &'static [&'static str],
    /// Things that are opened and closed.
    pub things: &'static [Thing],
    /// A request of the program that changes the client, and that a new program makes again; and the one
    /// that takes it back.
    pub registration: Option<[&'static str; 2]>,
}

/// Something that a client opens, changes and closes, like a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thing {
    /// The method that opens it.
    pub open: &'static str,
    /// The method that changes it, after which it cannot be opened again as it is.
    pub change: Option<&'static str>,
    /// The method that closes it.
    pub close: &'static str,
    /// Where in the parameters its name stands.
    pub name: &'static [&'static str],
}

/// How a call is cancelled: by a notification that names its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CancelStyle {
    /// The notification's method.
    pub method: &'static str,
    /// The parameter that holds the id.
    pub id: &'static str,
    /// The error code of the answer to a call that was cancelled; `None` where there is no answer.
    pub code: Option<i64>,
}

/// How a call under way tells of its progress: by notifications that name a token, which the
/// request gave in its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgressStyle {
    /// The notification's method.
    pub method: &'static str,
    /// The member that holds the token.
    pub token: &'static str,
    /// The object in the request's parameters in which the token stands.
    pub meta: &'static str,
}

impl Dialect {
    /// JSON-RPC 2.0 as it is specified; there is no way to cancel a call.
    pub const STRICT: Self = Self {
        name: "strict",
        version: true,
        batches: true,
        cancel: None,
        progress: None,
        trace: None,
        state: State::Unknown,
        adds_messages: true,
        gone: OVERLOADED,
    };

    /// The Language Server Protocol 3.17.
    pub const LSP: Self = Self {
        name: "lsp",
        version: true,
        batches: false,
        cancel: Some(CancelStyle { method: "$/cancelRequest", id: "id", code: Some(-32800) }),
        state: State::Handshake(&Handshake {
            request: "initialize",
            confirmation: Some("initialized"),
            process: Some("processId"),
            ends: &["shutdown", "exit"],
            latest: &["$/setTrace", "workspace/didChangeConfiguration"],
            every: &["workspace/didChangeWorkspaceFolders"],
            things: &[
                Thing {
                    open: "textDocument/didOpen",
                    change: Some("textDocument/didChange"),
                    close: "textDocument/didClose",
                    name: &["textDocument", "uri"],
                },
                Thing {
                    open: "notebookDocument/didOpen",
                    change: Some("notebookDocument/didChange"),
                    close: "notebookDocument/didClose",
                    name: &["notebookDocument", "uri"],
                },
            ],
            registration: Some(["client/registerCapability", "client/unregisterCapability"]),
        }),
        ..Self::STRICT
    };

    /// The Model Context Protocol.
    pub const MCP: Self = Self {
        name: "mcp",
        version: true,
        batches: false,
        cancel: Some(CancelStyle {
            method: "notifications/cancelled",
            id: "requestId",
            code: None,
        }),
        progress: Some(ProgressStyle {
            method: "notifications/progress",
            token: "progressToken",
            meta: "_meta",
        }),
        trace: Some("_meta"),
        state: State::Handshake(&Handshake {
            request: "initialize",
            confirmation: Some("notifications/initialized"),
            process: None,
            ends: &[],
            latest: &["logging/setLevel"],
            every: &[],
            things: &[Thing {
                open: "resources/subscribe",
                change: None,
                close: "resources/unsubscribe",
                name: &["uri"],
            }],
            registration: None,
        }),
        adds_messages: true,
        // -32768 to -32000 are the specification's.
        gone: -31000,
    };

    /// The Model Context Protocol of 2025-03-26, the one revision with batches.
    pub const MCP_2025_03_26: Self = Self { name: "mcp-2025-03-26", batches: true, ..Self::MCP };

    /// The Agent Client Protocol.
    pub const ACP: Self = Self {
        name: "acp",
        version: true,
        batches: false,
        cancel: Some(CancelStyle {
            method: "$/cancel_request",
            id: "requestId",
            code: Some(-32800),
        }),
        trace: Some("_meta"),
        state: State::Handshake(&Handshake {
            request: "initialize",
            confirmation: None,
            process: None,
            ends: &[],
            latest: &["authenticate"],
            every: &[],
            things: &[],
            registration: None,
        }),
        ..Self::STRICT
    };

    /// xi-core: no `jsonrpc` member, no batches.
    pub const XI: Self = Self {
        name: "xi",
        version: false,
        batches: false,
        state: State::Lost,
        adds_messages: false,
        ..Self::STRICT
    };

    /// Every dialect, in the order they are documented.
    pub const ALL: [Self; 6] =
        [Self::STRICT, Self::LSP, Self::MCP, Self::MCP_2025_03_26, Self::ACP, Self::XI];

    /// `params` with a token in them under which the call tells of its progress. `None` where the
    /// dialect knows no progress, or the parameters are not an object and have no place for it.
    pub fn with_progress(&self, token: &[u8], params: Option<&[u8]>) -> Option<Vec<u8>> {
        let ProgressStyle { token: name, meta, .. } = self.progress?;
        insert(params.unwrap_or(b"{}"), meta, name, token)
    }

    /// `params` with the trace in them that the call belongs to, as `traceparent`. `None` where the
    /// dialect has no place for it, the parameters are not an object, or they name a trace already.
    ///
    /// Model Context Protocol 2026-07-28, Basic Protocol, `_meta`; Agent Client Protocol, Extensibility.
    pub fn with_trace(&self, trace: &TraceParent, params: Option<&[u8]>) -> Option<Vec<u8>> {
        let params = params.unwrap_or(b"{}");
        if self.trace_of(params).is_some() {
            return None;
        }
        insert(params, self.trace?, TRACEPARENT, format!("\"{trace}\"").as_bytes())
    }

    /// The trace that a request with these parameters belongs to, if they name a valid one.
    pub fn trace_of(&self, params: &[u8]) -> Option<TraceParent> {
        let trace = member(member(params, self.trace?)?, TRACEPARENT)?;
        let trace = trace.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        std::str::from_utf8(trace).ok()?.parse().ok()
    }

    /// A request that opens the handshake with `null` in place of the client's process ID, which means
    /// nothing, or another process, where the program cannot see the client. `None` where there is no such
    /// number in it.
    pub fn without_process_id(&self, request: &Request) -> Option<Vec<u8>> {
        let State::Handshake(Handshake { request: method, process, .. }) = self.state else {
            return None;
        };
        if request.method() != *method {
            return None;
        }
        let number = member(request.params()?, (*process)?)?;
        if number == b"null" {
            return None;
        }
        let message = request.message();
        let (before, behind) = message.split_at_checked(offset(message, number)?)?;
        Some([before, b"null", behind.get(number.len()..)?].concat())
    }

    /// The notification that cancels the call with `id`, where the dialect has one.
    pub fn cancellation(&self, id: &[u8]) -> Option<Vec<u8>> {
        let cancel = self.cancel?;
        let params = [b"{\"", cancel.id.as_bytes(), b"\":", id, b"}"].concat();
        Some(write_notification(self, cancel.method, Some(&params)))
    }
}

/// Its name wherever it stands (W3C Trace Context, 3.2).
const TRACEPARENT: &str = "traceparent";

/// `params` with a member more in their object `meta`, which is made if there is none.
fn insert(params: &[u8], meta: &str, name: &str, value: &[u8]) -> Option<Vec<u8>> {
    let member_text = [b"\"", name.as_bytes(), b"\":", value].concat();
    // Behind the brace of the object that is there, or in one of its own.
    let (at, text) = match member(params, meta) {
        Some(found) if found.starts_with(b"{") => (offset(params, found)? + 1, member_text),
        Some(_) => return None,
        None if params.starts_with(b"{") => {
            (1, [b"\"", meta.as_bytes(), b"\":{", &member_text[..], b"}"].concat())
        }
        None => return None,
    };
    let (before, behind) = params.split_at_checked(at)?;
    let is_last = behind.trim_ascii_start().starts_with(b"}");
    let comma: &[u8] = if is_last { b"" } else { b"," };
    Some([before, &text, comma, behind].concat())
}

/// Where `part`, a slice of `whole`, begins.
fn offset(whole: &[u8], part: &[u8]) -> Option<usize> {
    part.as_ptr().addr().checked_sub(whole.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use super::super::{Message, classify};
    use super::*;
    use crate::json::Limits;

    #[test]
    fn the_process_id_of_an_opening_request_becomes_null() {
        let change = |dialect: Dialect, message: &str| {
            let message = classify(message.to_owned().into(), &dialect, Limits::default());
            let Message::Request(request) = message else { return None };
            dialect.without_process_id(&request).map(|it| String::from_utf8(it).unwrap_or_default())
        };
        let with = |value: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"a":{{"processId":1}}, "processId" : {value} ,"b":2}}}}"#
            )
        };
        assert_eq!(change(Dialect::LSP, &with("4711")), Some(with("null")));
        assert_eq!(change(Dialect::LSP, &with("\"text\"")), Some(with("null")));
        assert_eq!(change(Dialect::LSP, &with("null")), None);
        assert_eq!(change(Dialect::MCP, &with("4711")), None);
        assert_eq!(change(Dialect::LSP, &with("4711").replace("initialize", "other")), None);
        assert_eq!(change(Dialect::LSP, r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#), None);
    }

    #[test]
    fn a_progress_token_finds_its_place() {
        for (params, expected) in [
            (None, r#"{"_meta":{"progressToken":7}}"#),
            (Some("{}"), r#"{"_meta":{"progressToken":7}}"#),
            (Some("{ }"), r#"{"_meta":{"progressToken":7} }"#),
            (Some(r#"{"a":1}"#), r#"{"_meta":{"progressToken":7},"a":1}"#),
            (Some(r#"{"a":1,"_meta":{}}"#), r#"{"a":1,"_meta":{"progressToken":7}}"#),
            (Some(r#"{"_meta":{"b":{}},"a":1}"#), r#"{"_meta":{"progressToken":7,"b":{}},"a":1}"#),
        ] {
            let params = params.map(str::as_bytes);
            let with = Dialect::MCP.with_progress(b"7", params).unwrap();
            assert_eq!(String::from_utf8(with).unwrap(), expected);
        }
        assert_eq!(Dialect::MCP.with_progress(b"7", Some(b"[1]")), None);
        assert_eq!(Dialect::MCP.with_progress(b"7", Some(br#"{"_meta":null}"#)), None);
        assert_eq!(Dialect::LSP.with_progress(b"7", None), None);
    }

    #[test]
    fn a_trace_finds_its_place_and_is_found_there() {
        const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace: TraceParent = TRACE.parse().unwrap();
        for params in ["{}", r#"{"a":1}"#, r#"{"_meta":{"progressToken":7}}"#] {
            for dialect in [Dialect::MCP, Dialect::ACP] {
                assert_eq!(dialect.trace_of(params.as_bytes()), None);
                let with = dialect.with_trace(&trace, Some(params.as_bytes())).unwrap();
                assert_eq!(dialect.trace_of(&with), Some(trace), "{params}");
                assert_eq!(dialect.with_trace(&trace, Some(&with)), None, "there is one");
                crate::json::check(&with, crate::json::Limits::default()).unwrap();
            }
        }
        let with = Dialect::MCP.with_trace(&trace, None).unwrap();
        assert_eq!(with, format!(r#"{{"_meta":{{"traceparent":"{TRACE}"}}}}"#).as_bytes());
        assert_eq!(Dialect::MCP.with_trace(&trace, Some(b"[]")), None);
        assert_eq!(Dialect::LSP.with_trace(&trace, Some(b"{}")), None);
    }
}
