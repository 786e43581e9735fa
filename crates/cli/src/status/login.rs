//! `tieline status --url`: URLs that log in a browser.

use serde_json::Value;
use tieline_transport::Endpoint;

use super::{Answer, ask, ask_all, socket};
use crate::report::Failure;

/// The JSON-RPC method that returns new one-time URLs.
pub(super) const METHOD: &str = "login_urls";

/// Returns a new one-time URL for each web listener of this user's servers, one per line. With `wanted`,
/// returns only those of the server that listens there.
pub(super) async fn urls(wanted: Option<&Endpoint>) -> Result<String, Failure> {
    let mut text = String::new();
    for (socket, _) in ask_all(wanted).await? {
        // A server of an older version does not know the method.
        let Answer::Status(Value::Array(urls)) = ask(&socket, METHOD).await else { continue };
        for url in urls.iter().filter_map(Value::as_str) {
            text.push_str(url);
            text.push('\n');
        }
    }
    match (text.is_empty(), wanted) {
        (false, _) => Ok(text),
        (true, Some(endpoint)) => Err(Failure::other(format!(
            "the server at {endpoint} has no URL for browsers: it does not listen on http: or https:, or is of an \
             older version"
        ))),
        (true, None) => Err(Failure::other(format!(
            "no server of this user found in {} has a URL for browsers. Start one with: \
             tieline serve --listen http://127.0.0.1:8080 -- COMMAND",
            socket::directory_name()
        ))),
    }
}
