//! The errors of a client's connection attempts.

use std::io;

use tieline_transport::{CloseReason, ErrorKind, Operation, TransportError};

use crate::tls::is_tls_error;

pub(crate) fn failed(kind: ErrorKind) -> TransportError {
    TransportError::new(kind, Operation::Connect)
}

/// Creates the error for a server that does not accept a session.
pub(crate) fn no_session(problem: String) -> TransportError {
    TransportError::handshake("session", problem)
        .with_hint("omit `resume+`, or enable sessions on the server (tieline serve --resume)")
}

/// Returns a function that converts a failed handshake into an error. If the response is not HTTP,
/// `what` creates the error.
pub(crate) fn gone(what: fn(String) -> TransportError) -> impl Fn(hyper::Error) -> TransportError {
    move |error| {
        if error.is_parse() {
            return what(format!("the server's response is not HTTP ({error})"));
        }
        match is_tls_error(&error) {
            true => failed(ErrorKind::Tls).because(io::Error::other(error)),
            false => lost(io::Error::other(error)),
        }
    }
}

/// Creates the error for a connection that was lost before the response arrived; a retry may succeed.
pub(crate) fn lost(reason: impl Into<CloseReason>) -> TransportError {
    failed(ErrorKind::Closed(reason.into())).with_hint(
        "the connection ended during the handshake: try again, or check the server's log",
    )
}
