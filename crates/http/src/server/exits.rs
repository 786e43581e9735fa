//! Reports how sessions failed to their owners, with what their programs wrote to stderr.

use hyper::{Response, StatusCode, Uri};
use tieline_proto::session::SessionId;
use tieline_transport::{ChildExit, CloseReason, Owner};

use super::Server;
use super::body::{Body, JSON, answer, no_content};
use crate::lock::lock;

/// The path at which clients ask how a session's program ended.
pub(super) const EXIT_PATH: &str = "/exit";

/// The maximum number of bytes at the end of a program's stderr that a response contains.
pub(super) const MAX_STDERR: usize = 4096;

/// Returns why a session failed, or `None` if it did not or this is not known.
pub(super) fn failure_of(
    server: &Server,
    session: SessionId,
    owner: &Owner,
) -> Option<CloseReason> {
    let failures = lock(&server.failures).clone()?;
    failures(session, owner).filter(|reason| !reason.is_clean())
}

/// Returns the failure as JSON. It contains no stderr of the program if clients need no token.
pub(super) fn as_json(server: &Server, exit: &ChildExit) -> String {
    exit.to_json(if server.access.is_open() { 0 } else { MAX_STDERR })
}

/// Handles `GET`: returns how the program of an ended session failed, or 204.
pub(super) fn get(server: &Server, owner: Owner, uri: &Uri) -> Response<Body> {
    let query = uri.query().unwrap_or_default();
    let session = query.split('&').find_map(|it| it.strip_prefix("session=")).and_then(read_id);
    let failure = session.and_then(|session| failure_of(server, session, &owner));
    let exit = failure.as_ref().and_then(CloseReason::child_exit);
    match exit.filter(|exit| !exit.is_clean()) {
        Some(exit) => answer(StatusCode::OK, JSON, as_json(server, exit)),
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
