//! The errors that the host gets in place of responses.

use bytes::Bytes;
use tieline_proto::json::{Limits, check};
use tieline_proto::jsonrpc::member;
use tieline_proto::printable;

use crate::modern::json::is_object;
use crate::text::string;

/// How many bytes of a response's body an error shows.
const SHOWN: usize = 200;
/// How many bytes of the body of such a response are read.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// Why a request has no response.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: i64,
    pub(super) text: String,
    /// The server's own error, as raw JSON.
    pub(super) raw: Option<Vec<u8>>,
}

impl Failure {
    pub(super) fn new(code: i64, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), raw: None }
    }

    /// Creates a failure without an HTTP status.
    pub(super) fn lost(text: impl Into<String>) -> Self {
        Self::new(-31000, text)
    }

    /// Creates the failure for a response with an unexpected status.
    pub(super) fn refused(status: u16, headers: &[(String, Bytes)], body: &[u8]) -> Self {
        let header = |name| {
            let value = headers.iter().find(|(it, _)| it == name).map(|(_, value)| &value[..]);
            value.map(|value| printable(shown(value).as_bytes()).into_owned())
        };
        let error = error_in(body);
        let said = match error {
            Some(error) => {
                member(error, "message").and_then(string).unwrap_or_default().into_owned()
            }
            None => {
                shown(body.trim_ascii().split(|byte| *byte == b'\n').next().unwrap_or_default())
            }
        };
        let said = printable(said.trim().as_bytes()).into_owned();
        let hint = match status {
            300..=399 => match header("location") {
                Some(place) => format!("Redirects are not followed; use the URL {place}"),
                None => "Redirects are not followed".into(),
            },
            401 => match header("www-authenticate").filter(|it| it.contains("resource_metadata")) {
                Some(_) => {
                    "The server uses OAuth: get an access token for it, and set TIELINE_TOKEN or \
                            pass --token-file"
                        .into()
                }
                None => "Check the token: set TIELINE_TOKEN or pass --token-file".into(),
            },
            403 => {
                "The token may lack a permission, or the server does not accept this Host or Origin"
                    .into()
            }
            404 | 405 => {
                "Check the path of the URL, and whether the server speaks MCP over Streamable \
                          HTTP there"
                    .into()
            }
            413 => "The message is too large for the server".into(),
            429 | 503 => match header("retry-after") {
                Some(time) if time.bytes().all(|byte| byte.is_ascii_digit()) => {
                    format!("Try again in {time} s")
                }
                _ => "Try again later".into(),
            },
            500..=599 => "Check the server's log".into(),
            _ => String::new(),
        };
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let hint = if hint.is_empty() { hint } else { format!(". {hint}") };
        let text = format!("the server answered with status {status}{said}{hint}");
        // Only the user can do something about these, who needs the hint.
        let raw = error.filter(|_| !matches!(status, 300..=399 | 401 | 403)).map(<[u8]>::to_vec);
        let code = -31000 - i64::from(status);
        Self { code, text, raw }
    }
}

/// Returns the error object of a JSON-RPC error.
fn error_in(body: &[u8]) -> Option<&[u8]> {
    let body = body.trim_ascii();
    check(body, Limits::default()).ok()?;
    let error = member(body, "error").filter(|error| is_object(body) && is_object(error))?;
    let code = member(error, "code")?;
    let is_number = code.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-');
    (is_number && member(error, "message").and_then(string).is_some()).then_some(error)
}

/// Returns the beginning of a text.
pub(super) fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.get(..SHOWN * 4).unwrap_or(text));
    text.chars().take(SHOWN).collect()
}
