//! The errors of a client's connection attempts.

use std::error::Error;
use std::io;

use tieline_transport::{CloseReason, ErrorKind, Operation, TransportError};

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
        match is_tls(&error) {
            true => failed(ErrorKind::Tls).because(io::Error::other(error)),
            false => lost(io::Error::other(error)),
        }
    }
}

/// Returns whether the cause is a TLS error. A server that requires a client certificate refuses the
/// connection only after the TLS handshake.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<rustls::Error>())
    })
}

/// Creates the error for a connection that was lost before the response arrived; a retry may succeed.
pub(crate) fn lost(reason: impl Into<CloseReason>) -> TransportError {
    failed(ErrorKind::Closed(reason.into())).with_hint(
        "the connection ended during the handshake: try again, or check the server's log",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_handshake_reports_its_cause_and_whether_it_was_tls() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let cause = io::Error::new(io::ErrorKind::InvalidData, alert);
        let outer = failed(ErrorKind::Io).because(cause);
        assert!(is_tls(&outer) && !is_tls(&io::Error::other("cut")));
        // The message already shows the outer error; the source is the inner one.
        let error = lost(io::Error::other(outer));
        assert!(error.source().unwrap().to_string().contains("CertificateRequired"), "{error:?}");
        assert!(error.is_retryable() && lost(io::Error::other("cut")).source().is_none());
    }
}
