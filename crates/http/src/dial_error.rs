//! The errors of a client's connection attempts.

use tieline_transport::{CloseReason, ErrorKind, Operation, TransportError};

pub(crate) fn failed(kind: ErrorKind) -> TransportError {
    TransportError::new(kind, Operation::Connect)
}

/// Creates the error for a server that does not accept a session.
pub(crate) fn no_session(problem: String) -> TransportError {
    TransportError::handshake("session", problem)
        .with_hint("omit `resume+`, or enable sessions on the server (tieline serve --resume)")
}

/// Creates the error for a connection that was lost before the response arrived; a retry may succeed.
pub(crate) fn lost(reason: impl Into<CloseReason>) -> TransportError {
    failed(ErrorKind::Closed(reason.into())).with_hint(
        "the connection ended during the handshake: try again, or check the server's log, and whether a web \
         server listens there",
    )
}
