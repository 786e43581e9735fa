//! What differs between those who speak JSON-RPC, as data.

use super::write::write_notification;

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

impl Dialect {
    /// JSON-RPC 2.0 as it is specified; there is no way to cancel a call.
    pub const STRICT: Self = Self { name: "strict", version: true, batches: true, cancel: None };

    /// The Language Server Protocol 3.17.
    pub const LSP: Self = Self {
        name: "lsp",
        version: true,
        batches: false,
        cancel: Some(CancelStyle { method: "$/cancelRequest", id: "id", code: Some(-32800) }),
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
    };

    /// xi-core: no `jsonrpc` member, no batches.
    pub const XI: Self = Self { name: "xi", version: false, batches: false, cancel: None };

    /// Every dialect, in the order they are documented.
    pub const ALL: [Self; 6] =
        [Self::STRICT, Self::LSP, Self::MCP, Self::MCP_2025_03_26, Self::ACP, Self::XI];

    /// The notification that cancels the call with `id`, where the dialect has one.
    pub fn cancellation(&self, id: &[u8]) -> Option<Vec<u8>> {
        let cancel = self.cancel?;
        let params = [b"{\"", cancel.id.as_bytes(), b"\":", id, b"}"].concat();
        Some(write_notification(self, cancel.method, Some(&params)))
    }
}
