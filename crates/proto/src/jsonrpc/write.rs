//! Writing messages, each into one allocation of exactly its length. Raw JSON is copied without a check:
//! the caller guarantees that it is JSON.

use super::dialect::Dialect;
use crate::json::escape;

/// Writes a request; `id` and `params` are raw JSON.
pub fn write_request(dialect: &Dialect, id: &[u8], method: &str, params: Option<&[u8]>) -> Vec<u8> {
    let (method, [name, params]) = (escape(method), member(b",\"params\":", params));
    [open(dialect), ID, id, b",\"method\":\"", method.as_bytes(), b"\"", name, params, b"}"]
        .concat()
}

/// Writes a notification; `params` are raw JSON.
pub fn write_notification(dialect: &Dialect, method: &str, params: Option<&[u8]>) -> Vec<u8> {
    let (method, [name, params]) = (escape(method), member(b",\"params\":", params));
    [open(dialect), b"\"method\":\"", method.as_bytes(), b"\"", name, params, b"}"].concat()
}

/// Writes the response to the request `id` with a result; both are raw JSON.
pub fn write_result(dialect: &Dialect, id: &[u8], result: &[u8]) -> Vec<u8> {
    [open(dialect), ID, id, b",\"result\":", result, b"}"].concat()
}

/// Writes the response to the request `id` with a result or an error object; all are raw JSON.
pub fn write_response(dialect: &Dialect, id: &[u8], outcome: Result<&[u8], &[u8]>) -> Vec<u8> {
    match outcome {
        Ok(result) => write_result(dialect, id, result),
        Err(error) => [open(dialect), ID, id, b",\"error\":", error, b"}"].concat(),
    }
}

/// Writes the response to the request `id` with an error; `id` and `data` are raw JSON.
pub fn write_error(
    dialect: &Dialect,
    id: &[u8],
    code: i64,
    text: &str,
    data: Option<&[u8]>,
) -> Vec<u8> {
    let (code, text, [name, data]) = (code.to_string(), escape(text), member(b",\"data\":", data));
    let error: [&[u8]; 5] =
        [b",\"error\":{\"code\":", code.as_bytes(), b",\"message\":\"", text.as_bytes(), b"\""];
    [open(dialect), ID, id, &error.concat(), name, data, b"}}"].concat()
}

impl Dialect {
    /// Returns the notification that cancels the call with `id`, or `None` if the dialect has none.
    pub fn cancellation(&self, id: &[u8]) -> Option<Vec<u8>> {
        let cancel = self.cancel?;
        let params = [b"{\"", cancel.id.as_bytes(), b"\":", id, b"}"].concat();
        Some(write_notification(self, cancel.method, Some(&params)))
    }
}

const ID: &[u8] = b"\"id\":";

fn open(dialect: &Dialect) -> &'static [u8] {
    if dialect.version { b"{\"jsonrpc\":\"2.0\"," } else { b"{" }
}

/// Returns the name and value of an optional member.
fn member<'a>(name: &'a [u8], value: Option<&'a [u8]>) -> [&'a [u8]; 2] {
    value.map_or([b"", b""], |value| [name, value])
}
