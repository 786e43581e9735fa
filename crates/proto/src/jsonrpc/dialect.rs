//! What differs between those who speak JSON-RPC, as data.

use super::classify::member;
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
    /// How a call under way tells of its progress.
    pub progress: Option<ProgressStyle>,
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
    pub const STRICT: Self =
        Self { name: "strict", version: true, batches: true, cancel: None, progress: None };

    /// The Language Server Protocol 3.17.
    pub const LSP: Self = Self {
        name: "lsp",
        version: true,
        batches: false,
        cancel: Some(CancelStyle { method: "$/cancelRequest", id: "id", code: Some(-32800) }),
        progress: None,
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
        progress: None,
    };

    /// xi-core: no `jsonrpc` member, no batches.
    pub const XI: Self =
        Self { name: "xi", version: false, batches: false, cancel: None, progress: None };

    /// Every dialect, in the order they are documented.
    pub const ALL: [Self; 6] =
        [Self::STRICT, Self::LSP, Self::MCP, Self::MCP_2025_03_26, Self::ACP, Self::XI];

    /// `params` with a token in them under which the call tells of its progress. `None` where the
    /// dialect knows no progress, or the parameters are not an object and have no place for it.
    pub fn with_progress(&self, token: &[u8], params: Option<&[u8]>) -> Option<Vec<u8>> {
        let ProgressStyle { token: name, meta, .. } = self.progress?;
        let token = [b"\"", name.as_bytes(), b"\":", token].concat();
        let params = params.unwrap_or(b"{}");
        // Behind the brace of the object that is there, or in one of its own.
        let (at, token) = match member(params, meta) {
            Some(found) if found.starts_with(b"{") => (offset(params, found)? + 1, token),
            Some(_) => return None,
            None if params.starts_with(b"{") => {
                (1, [b"\"", meta.as_bytes(), b"\":{", &token[..], b"}"].concat())
            }
            None => return None,
        };
        let (before, behind) = params.split_at_checked(at)?;
        let is_last = behind.trim_ascii_start().starts_with(b"}");
        let comma: &[u8] = if is_last { b"" } else { b"," };
        Some([before, &token, comma, behind].concat())
    }

    /// The notification that cancels the call with `id`, where the dialect has one.
    pub fn cancellation(&self, id: &[u8]) -> Option<Vec<u8>> {
        let cancel = self.cancel?;
        let params = [b"{\"", cancel.id.as_bytes(), b"\":", id, b"}"].concat();
        Some(write_notification(self, cancel.method, Some(&params)))
    }
}

/// Where `part`, a slice of `whole`, begins.
fn offset(whole: &[u8], part: &[u8]) -> Option<usize> {
    part.as_ptr().addr().checked_sub(whole.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
