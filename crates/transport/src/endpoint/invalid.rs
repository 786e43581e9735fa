//! The errors for endpoints that cannot be parsed or that belong to another transport.

use super::Endpoint;
use crate::error::{ErrorKind, Operation, TransportError};

pub(super) fn invalid(problem: String, hint: &'static str) -> TransportError {
    let error = TransportError::new(ErrorKind::InvalidEndpoint { problem }, Operation::Parse);
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

/// Returns the error of a transport that was registered for a scheme it does not implement.
pub(crate) fn foreign(endpoint: &Endpoint) -> TransportError {
    let problem = format!("`{}:` is not an endpoint of this transport", endpoint.scheme());
    TransportError::new(ErrorKind::InvalidEndpoint { problem }, Operation::Configure).at(endpoint)
}
