//! Turns a started child into a connection.

use std::sync::Arc;

use super::lifecycle::Lifecycle;
use super::start::{Started, launch_failed, start};
use super::{ChildStdin, ChildStdout, PROFILE, ProcessConfig, ProcessConnection, resolve};
use crate::connection::IoConnection;
use crate::control::ControlBuilder;
use crate::endpoint::Endpoint;
use crate::error::TransportError;
use crate::info::{Capabilities, TransportKind};
use crate::transport::TransportConfig;

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
