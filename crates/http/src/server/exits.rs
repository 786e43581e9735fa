//! Reports how the programs of sessions ended, which the session protocol cannot do.

use hyper::{Response, StatusCode, Uri};
use tieline_proto::session::SessionId;
use tieline_transport::{ChildExit, Owner};

use super::Server;
use super::body::{Body, JSON, answer, no_content};
use crate::lock::lock;

/// The path at which clients ask how a session's program ended.
pub(super) const EXIT_PATH: &str = "/exit";

/// The maximum number of bytes at the end of a program's stderr that a response contains.
pub(super) const MAX_STDERR: usize = 4096;

/// Returns how the program of an ended session failed, or `None` if it succeeded or its exit is unknown.
pub(super) fn failure_of(server: &Server, session: SessionId, owner: &Owner) -> Option<ChildExit> {
    let exits = lock(&server.exits).clone()?;
    exits(session, owner).filter(|exit| !exit.is_clean())
}

/// Returns the failure as JSON. It contains no stderr of the program if clients need no token.
pub(super) fn as_json(server: &Server, exit: &ChildExit) -> String {
    exit.to_json(if server.access.is_open() { 0 } else { MAX_STDERR })
}

/// Handles `GET`: returns how the program of an ended session failed, or 204.
pub(super) fn get(server: &Server, owner: Owner, uri: &Uri) -> Response<Body> {
    let query = uri.query().unwrap_or_default();
    let session = query.split('&').find_map(|it| it.strip_prefix("session=")).and_then(read_id);
    match session.and_then(|session| failure_of(server, session, &owner)) {
        Some(exit) => answer(StatusCode::OK, JSON, as_json(server, &exit)),
        None => no_content(),
    }
}

/// Parses 32 hexadecimal digits.
fn read_id(text: &str) -> Option<SessionId> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
    Some(SessionId(id.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_id_is_32_hexadecimal_digits() {
        let id = SessionId(*b"\x00123456789abcde\xff");
        assert_eq!(read_id(&id.to_string()), Some(id));
        for text in ["", "+0313233343536373839616263646566f", "00", &format!("{id}0")] {
            assert_eq!(read_id(text), None, "{text}");
        }
    }
}
