//! Messages as bytes. What is raw goes in as it is: it must be JSON.

use super::Dialect;
use crate::json::write_string;

/// A request with the id `id`, which is raw JSON as `params` are.
pub fn write_request(dialect: &Dialect, id: &[u8], method: &str, params: Option<&[u8]>) -> Vec<u8> {
    let mut message = open(dialect, id.len() + method.len() + params.map_or(0, <[u8]>::len));
    message.extend_from_slice(b"\"id\":");
    message.extend_from_slice(id);
    message.push(b',');
    close_with_method(message, method, params)
}

/// A notification; `params` are raw JSON.
pub fn write_notification(dialect: &Dialect, method: &str, params: Option<&[u8]>) -> Vec<u8> {
    let message = open(dialect, method.len() + params.map_or(0, <[u8]>::len));
    close_with_method(message, method, params)
}

/// The response to the request with `id`; both are raw JSON.
pub fn write_result(dialect: &Dialect, id: &[u8], result: &[u8]) -> Vec<u8> {
    let mut message = open(dialect, id.len() + result.len());
    message.extend_from_slice(b"\"id\":");
    message.extend_from_slice(id);
    message.extend_from_slice(b",\"result\":");
    message.extend_from_slice(result);
    message.push(b'}');
    message
}

/// The error response to the request with `id`; `id` and `data` are raw JSON.
pub fn write_error(
    dialect: &Dialect,
    id: &[u8],
    code: i64,
    text: &str,
    data: Option<&[u8]>,
) -> Vec<u8> {
    let mut message = open(dialect, id.len() + text.len() + data.map_or(0, <[u8]>::len));
    message.extend_from_slice(b"\"id\":");
    message.extend_from_slice(id);
    message.extend_from_slice(b",\"error\":{\"code\":");
    message.extend_from_slice(code.to_string().as_bytes());
    message.extend_from_slice(b",\"message\":");
    write_string(text, &mut message);
    if let Some(data) = data {
        message.extend_from_slice(b",\"data\":");
        message.extend_from_slice(data);
    }
    message.extend_from_slice(b"}}");
    message
}

/// What all the members' names and marks take, generously.
const FRAME: usize = 64;

fn open(dialect: &Dialect, length: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(length + FRAME);
    message.push(b'{');
    if dialect.version {
        message.extend_from_slice(b"\"jsonrpc\":\"2.0\",");
    }
    message
}

fn close_with_method(mut message: Vec<u8>, method: &str, params: Option<&[u8]>) -> Vec<u8> {
    message.extend_from_slice(b"\"method\":");
    write_string(method, &mut message);
    if let Some(params) = params {
        message.extend_from_slice(b",\"params\":");
        message.extend_from_slice(params);
    }
    message.push(b'}');
    message
}
