//! The errors of endpoints that do not parse, or that another transport is for.

use super::Endpoint;
use crate::error::{ErrorKind, Operation, TransportError};

pub(super) fn invalid(problem: String, hint: &'static str) -> TransportError {
    let error = TransportError::new(ErrorKind::InvalidEndpoint { problem }, Operation::Parse);
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

/// Returns the error for a transport that was registered for a scheme it does not implement.
pub(crate) fn foreign(endpoint: &Endpoint) -> TransportError {
    let problem = format!("`{}:` is not an endpoint of this transport", endpoint.scheme());
    TransportError::new(ErrorKind::InvalidEndpoint { problem }, Operation::Configure).at(endpoint)
}
