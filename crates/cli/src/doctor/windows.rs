//! Checks on Windows.

use tieline_transport::{Address, Endpoint, Options, Registry, TransportError};
use tokio::time::timeout;

use super::{Finding, LIMIT};

/// How the processes of a program are contained.
pub(super) const HELD: &str = "they start in a job, which ends everything that they start";

pub(super) fn limits() -> Vec<Finding> {
    Vec::new()
}

pub(super) async fn lines() -> Vec<Finding> {
    const CHECK: &str = "named pipes";
    let endpoint = Endpoint::new(Address::Pipe(format!("tieline-doctor-{}", std::process::id())));
    let connecting = async {
        let (registry, options) = (Registry::new(), Options::default());
        let mut acceptor = registry.listen(&endpoint, &options).await?;
        let connected = registry.connect(&endpoint, &options);
        let (client, server) = tokio::join!(connected, acceptor.accept());
        client.and(server).map(drop)
    };
    let connected: Result<Result<(), TransportError>, _> = timeout(LIMIT, connecting).await;
    let why = match connected {
        Ok(Ok(())) => return vec![Finding::ok(CHECK, "they work")],
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no connection within {LIMIT:?}"),
    };
    vec![Finding::problem(CHECK, why, "check the permissions of the user that runs tieline")]
}

pub(super) async fn containment() -> Vec<Finding> {
    Vec::new()
}
