//! Connects and listens. Errors about a server's name say which servers are running.

use tieline_transport::{
    BoxChannel, DynAcceptor, Endpoint, ErrorKind, Options, Registry, TransportError,
};

use crate::names::{self, Name};
use crate::report::Failure;
use crate::sessions::Served;
use crate::{sessions, status};

/// Connects. If no server has the name, the failure lists the running servers.
pub(crate) async fn connect(
    registry: &Registry,
    endpoint: &Endpoint,
    options: &Options,
) -> Result<BoxChannel, Failure> {
    if Name::at(endpoint).is_some() {
        names::check_owner()?;
    }
    match sessions::connect(registry, endpoint, options).await {
        Ok(channel) => Ok(channel),
        Err(error) => Err(explained(error).await),
    }
}

/// Listens. If the name is in use, the failure names the process that uses it.
pub(crate) async fn listen(
    registry: &Registry,
    endpoint: Endpoint,
    options: &Options,
    served: Served,
) -> Result<Box<dyn DynAcceptor>, Failure> {
    if Name::at(&endpoint).is_some() {
        names::prepare()?;
    }
    match sessions::listen(registry, endpoint, options, served).await {
        Ok(acceptor) => Ok(acceptor),
        Err(error) => Err(explained(error).await),
    }
}

/// Checks that a server may be running at `endpoint`, without connecting to it.
pub(crate) async fn check(endpoint: &Endpoint) -> Result<(), Failure> {
    let Some(name) = Name::at(endpoint) else { return Ok(()) };
    names::check_owner()?;
    match names::exists(&name) {
        true => Ok(()),
        false => Err(status::not_running(&name, &ErrorKind::NotFound.to_string()).await),
    }
}

/// Adds the running servers to an error about a name.
pub(crate) async fn explained(error: TransportError) -> Failure {
    match (error.endpoint().and_then(Name::at), error.kind()) {
        (Some(name), ErrorKind::AddressInUse) => status::in_use(&name).await,
        (
            Some(name),
            kind @ (ErrorKind::NotFound | ErrorKind::Refused | ErrorKind::DirectoryMissing(_)),
        ) => status::not_running(&name, &kind.to_string()).await,
        _ => error.into(),
    }
}
