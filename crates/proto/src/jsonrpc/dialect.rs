//! The differences between protocols based on JSON-RPC, expressed as data.

use super::member::{member, offset};
use super::{OVERLOADED, PingRules, Request, Sharing, SharingRules, TraceParent};

/// A protocol based on JSON-RPC, described by its differences from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dialect {
    /// The dialect's name in command-line options.
    pub name: &'static str,
    /// Whether messages have a `jsonrpc` member with the value `"2.0"`.
    pub version: bool,
    /// Whether several messages may be sent together as an array.
    pub batches: bool,
    /// How a call is cancelled.
    pub cancel: Option<CancelStyle>,
    /// How a call in flight reports progress.
    pub progress: Option<ProgressStyle>,
    /// The object in the parameters of a request that holds its trace context.
    pub trace: Option<&'static str>,
    /// The state that a restarted program must receive again before it can replace the previous program.
    pub state: DialectState,
    /// Whether a gateway may add messages to the stream: an error for a lost response, or a cancellation.
    pub adds_messages: bool,
    /// The error code for requests that a program did not answer before it exited.
    pub gone: i64,
    /// Whether several clients can share one program, and how.
    pub sharing: Sharing,
    /// How to find out whether a program still answers, if the protocol has a request for that.
    pub ping: Option<&'static PingRules>,
}

/// The state that a program has from earlier messages, which must be restored after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialectState {
    /// No state is known: messages are assumed to be independent of each other.
    Unknown,
    /// The handshake with which its client opened the line, and some of the messages after it.
    Handshake(&'static Handshake),
    /// State that cannot be restored in another program.
    Lost,
}

/// The handshake that opens a line, and the other messages that make up a program's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The request that opens the handshake.
    pub request: &'static str,
    /// The notification that confirms the response.
    pub confirmation: Option<&'static str>,
    /// The parameter of the request that holds the process ID of the client, for the program to watch.
    pub process: Option<&'static str>,
    /// The methods after which the client no longer needs a program.
    pub ends: &'static [&'static str],
    /// Methods of which only the latest message is part of the state.
    pub latest: &'static [&'static str],
    /// Methods of which every message is part of the state.
    pub every: &'static [&'static str],
    /// Objects that are opened and closed.
    pub things: &'static [Thing],
    /// The request with which a program registers a capability with the client, and the request that
    /// undoes this. A restarted program sends the first request again.
    pub registration: Option<[&'static str; 2]>,
}

/// An object that a client opens, changes and closes, such as a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thing {
    /// The method that opens it.
    pub open: &'static str,
    /// The method that changes it. After a change, it cannot be restored by opening it again.
    pub change: Option<&'static str>,
    /// The method that closes it.
    pub close: &'static str,
    /// The path of its name in the parameters.
    pub name: &'static [&'static str],
}

/// How a call is cancelled, which is by a notification that contains the call's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CancelStyle {
    /// The notification's method.
    pub method: &'static str,
    /// The parameter that holds the id.
    pub id: &'static str,
    /// The error code of the response to a cancelled call; `None` if there is no response.
    pub code: Option<i64>,
}

/// How a call in flight reports progress, which is by notifications with a token from the parameters of
/// the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgressStyle {
    /// The notification's method.
    pub method: &'static str,
    /// The member that holds the token.
    pub token: &'static str,
    /// The object in the request's parameters that holds the token.
    pub meta: &'static str,
}

impl Dialect {
    /// JSON-RPC 2.0 as specified. Calls cannot be cancelled.
    pub const STRICT: Self = Self {
        name: "strict",
        version: true,
        batches: true,
        cancel: None,
        progress: None,
        trace: None,
        state: DialectState::Unknown,
        adds_messages: true,
        gone: OVERLOADED,
        sharing: Sharing::Possible(&SharingRules::PLAIN),
        ping: None,
    };

    /// The Language Server Protocol 3.17.
    pub const LSP: Self = Self {
        name: "lsp",
        version: true,
        batches: false,
        cancel: Some(CancelStyle { method: "$/cancelRequest", id: "id", code: Some(-32800) }),
        state: DialectState::Handshake(&Handshake {
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
        sharing: Sharing::Impossible(
            "a language server has one copy of each document, which the edits of several clients would mix up",
        ),
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
        state: DialectState::Handshake(&Handshake {
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
        // The specification reserves -32768 to -32000.
        gone: -31000,
        sharing: Sharing::Possible(&SharingRules::MCP),
        ping: Some(&PingRules::MCP),
    };

    /// The Model Context Protocol of 2025-03-26, the only revision with batches.
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
        state: DialectState::Handshake(&Handshake {
            request: "initialize",
            confirmation: None,
            process: None,
            ends: &[],
            latest: &["authenticate"],
            every: &[],
            things: &[],
            registration: None,
        }),
        sharing: Sharing::Impossible(
            "an agent belongs to the client that authenticated to it, and asks that client for files and permissions",
        ),
        ..Self::STRICT
    };

    /// The protocol of xi-core, which has no `jsonrpc` member and no batches.
    pub const XI: Self = Self {
        name: "xi",
        version: false,
        batches: false,
        state: DialectState::Lost,
        adds_messages: false,
        sharing: Sharing::Impossible(
            "xi-core has one client: its views belong to all who are connected",
        ),
        ..Self::STRICT
    };

    /// All dialects, in the order in which they are documented.
    pub const ALL: [Self; 6] =
        [Self::STRICT, Self::LSP, Self::MCP, Self::MCP_2025_03_26, Self::ACP, Self::XI];

    /// Returns `params` with a progress token added. Returns `None` if the dialect has no progress
    /// notifications, or the parameters are not an object to which the token can be added.
    pub fn with_progress(&self, token: &[u8], params: Option<&[u8]>) -> Option<Vec<u8>> {
        let ProgressStyle { token: name, meta, .. } = self.progress?;
        insert(params.unwrap_or(b"{}"), meta, name, token)
    }

    /// Returns `params` with the trace context of the call added as `traceparent`. Returns `None` if the
    /// dialect has no place for it, or the parameters are not an object or already have a trace context.
    ///
    /// See Model Context Protocol 2026-07-28, Basic Protocol, `_meta`; Agent Client Protocol,
    /// Extensibility.
    pub fn with_trace(&self, trace: &TraceParent, params: Option<&[u8]>) -> Option<Vec<u8>> {
        let params = params.unwrap_or(b"{}");
        if self.trace_of(params).is_some() {
            return None;
        }
        insert(params, self.trace?, TRACEPARENT, format!("\"{trace}\"").as_bytes())
    }

    /// Returns the trace context in the parameters of a request, if it is valid.
    pub fn trace_of(&self, params: &[u8]) -> Option<TraceParent> {
        let trace = member(member(params, self.trace?)?, TRACEPARENT)?;
        let trace = trace.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        std::str::from_utf8(trace).ok()?.parse().ok()
    }

    /// Returns a request that opens the handshake with the client's process ID replaced by `null`. This
    /// is for programs that cannot see the client's process. For them, the ID belongs to no process or
    /// to another process. Returns `None` if the request has no such ID.
    pub fn without_process_id(&self, request: &Request) -> Option<Vec<u8>> {
        let DialectState::Handshake(Handshake { request: method, process, .. }) = self.state else {
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
}

/// The name of the trace context (W3C Trace Context, section 3.2).
const TRACEPARENT: &str = "traceparent";

/// Returns `params` with a member added to the object `meta` in them, which is created if it is missing.
fn insert(params: &[u8], meta: &str, name: &str, value: &[u8]) -> Option<Vec<u8>> {
    let member_text = [b"\"", name.as_bytes(), b"\":", value].concat();
    // The member is inserted after the opening brace of the existing object, or in a new object.
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

#[cfg(test)]
mod tests {
    use super::super::{Message, classify};
    use super::*;
    use crate::json::Limits;

    #[test]
    fn process_id_in_the_opening_request_becomes_null() {
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
    fn progress_token_is_added_to_the_parameters() {
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
    fn trace_context_is_added_once_and_read_back() {
        const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace: TraceParent = TRACE.parse().unwrap();
        for params in ["{}", r#"{"a":1}"#, r#"{"_meta":{"progressToken":7}}"#] {
            for dialect in [Dialect::MCP, Dialect::ACP] {
                assert_eq!(dialect.trace_of(params.as_bytes()), None);
                let with = dialect.with_trace(&trace, Some(params.as_bytes())).unwrap();
                assert_eq!(dialect.trace_of(&with), Some(trace), "{params}");
                assert_eq!(dialect.with_trace(&trace, Some(&with)), None, "it is there already");
                crate::json::check(&with, crate::json::Limits::default()).unwrap();
            }
        }
        let with = Dialect::MCP.with_trace(&trace, None).unwrap();
        assert_eq!(with, format!(r#"{{"_meta":{{"traceparent":"{TRACE}"}}}}"#).as_bytes());
        assert_eq!(Dialect::MCP.with_trace(&trace, Some(b"[]")), None);
        assert_eq!(Dialect::LSP.with_trace(&trace, Some(b"{}")), None);
    }
}
