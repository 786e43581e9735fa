//! Where a server is asked: a pipe named after its process.

use tieline_transport::{
    Address, BoxChannel, DynAcceptor, Endpoint, Options, Registry, TransportError,
};

const BEGINNING: &str = "tieline-status-";

/// Where the names of all pipes of this machine are.
const PIPES: &str = r"\\.\pipe\";

/// How many of them are looked at.
const MAX_NAMES: usize = 4096;

/// A pipe of our own. It goes with its process, however that goes.
pub(super) struct Place(Box<dyn DynAcceptor>);

impl Place {
    /// Listens.
    pub(super) async fn take(registry: &Registry) -> Result<Self, String> {
        let name = format!("{BEGINNING}{}", std::process::id());
        let endpoint = Endpoint::new(Address::Pipe(name));
        let listening = registry.listen(&endpoint, &Options::default()).await;
        listening.map(Self).map_err(|error| error.to_string())
    }

    /// The next who asks.
    pub(super) async fn accept(&mut self) -> Result<BoxChannel, TransportError> {
        self.0.accept().await
    }
}

/// Where they are looked for, for people.
pub(super) fn name() -> String {
    PIPES.into()
}

/// The servers that there are; those of other users will not be spoken to.
pub(super) fn all() -> Result<Vec<(u32, Endpoint)>, String> {
    let entries = std::fs::read_dir(PIPES).map_err(|error| format!("{PIPES}: {error}"))?;
    let found = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let pid = name.strip_prefix(BEGINNING)?.parse().ok()?;
        Some((pid, Endpoint::new(Address::Pipe(name))))
    });
    Ok(found.take(MAX_NAMES).collect())
}
