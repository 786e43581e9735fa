//! Starting a child and creating the connection to it.

use std::sync::Arc;

use super::config::{PROFILE, ProcessConfig};
use super::lifecycle::Lifecycle;
use super::pipes::ChildStdout;
use super::resolve;
use super::start::{Started, launch_failed, start};
use super::stdin::ChildStdin;
use crate::connection::IoConnection;
use crate::control::ControlBuilder;
use crate::endpoint::Endpoint;
use crate::error::TransportError;
use crate::info::{Capabilities, TransportKind};
use crate::transport::TransportConfig;

/// The connection to a child process.
///
/// Shutting down the write half closes the child's stdin. The stream ends when the child's stdout does, or
/// [`StopTimeouts::drain`](crate::StopTimeouts::drain) after the child has ended, whichever comes first.
pub type ProcessConnection = IoConnection<ChildStdout, ChildStdin>;

pub(super) async fn launch(
    config: &ProcessConfig,
    endpoint: &Endpoint,
) -> Result<ProcessConnection, TransportError> {
    config.validate()?;
    let program = resolve(&config.program, config.cwd.as_deref())?;
    let Started { held, stdin, stdout, stderr } = start(config, program).await?;
    // From here on, dropping `lifecycle` ends the child, even if the rest fails.
    let lifecycle = Lifecycle::new(held, config).map_err(launch_failed)?;
    let read = ChildStdout::new(stdout, &lifecycle);
    let write = ChildStdin::new(stdin, &lifecycle);
    lifecycle.watch(stderr).map_err(launch_failed)?;
    let control = ControlBuilder {
        kind: TransportKind::PROCESS,
        endpoint: endpoint.clone(),
        peer: None,
        capabilities: Capabilities {
            half_close: true,
            notices_hangup: true,
            ..Capabilities::default()
        },
        profile: PROFILE,
        backing: Arc::new(lifecycle),
    };
    Ok(IoConnection::new(read, write, control.build()))
}
