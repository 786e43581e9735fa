//! The pipe that receives status requests. It is named after the server's PID.

use tieline_transport::{
    Address, BoxChannel, DynAcceptor, Endpoint, Options, Registry, TransportError,
};

use crate::names::{PIPES, PREFIX};

/// The suffix of status pipes, which have the same prefix as all pipes. Pipes with a server's name never
/// end with it.
const SUFFIX: &str = ".status";

/// The maximum number of status pipes that are considered.
const MAX_NAMES: usize = 4096;

/// This server's pipe. Windows removes it when the process ends.
pub(super) struct StatusSocket(Box<dyn DynAcceptor>);

impl StatusSocket {
    /// Starts listening.
    pub(super) async fn take(registry: &Registry) -> Result<Self, String> {
        let name = format!("{PREFIX}{}{SUFFIX}", std::process::id());
        let endpoint = Endpoint::new(Address::Pipe(name));
        let listening = registry.listen(&endpoint, &Options::default()).await;
        listening.map(Self).map_err(|error| error.to_string())
    }

    /// Accepts the next connection.
    pub(super) async fn accept(&mut self) -> Result<BoxChannel, TransportError> {
        self.0.accept().await
    }
}

/// Returns the name of the directory of status pipes, for messages.
pub(super) fn directory_name() -> String {
    PIPES.into()
}

/// Returns the PIDs and status endpoints of all servers. Servers of other users refuse the connection.
pub(super) fn all() -> Result<Vec<(u32, Endpoint)>, String> {
    let entries = std::fs::read_dir(PIPES).map_err(|error| format!("{PIPES}: {error}"))?;
    let found = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let pid = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()?;
        Some((pid, Endpoint::new(Address::Pipe(name))))
    });
    Ok(found.take(MAX_NAMES).collect())
}
