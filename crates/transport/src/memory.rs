//! Lines inside this process, for tests and embedding.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tieline_proto::{ByteSize, LengthPrefix};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::channel::FramedChannel;
use crate::connection::IoConnection;
use crate::control::ControlBuilder;
use crate::endpoint::{Address, Endpoint};
use crate::error::{ConfigError, ErrorKind, Operation, TransportError};
use crate::info::{Capabilities, TransportKind};
use crate::options::{ChannelConfig, Options};
use crate::profile::PerformanceProfile;
use crate::transport::{Listener, Transport, TransportConfig};

/// Named listeners inside this process. Each value has its own namespace; clones share it.
///
/// The default framing is `length-prefix`, which carries arbitrary bytes.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<HashMap<String, mpsc::Sender<MemoryConnection>>>>);

/// A connection inside this process.
pub type MemoryConnection = IoConnection<DuplexStream, DuplexStream>;

/// A message channel inside this process.
pub type MemoryChannel = FramedChannel<MemoryConnection, LengthPrefix>;

/// Returns the two ends of a line inside this process. Its messages may contain arbitrary bytes.
///
/// ```
/// use tieline_transport::{Channel, Incoming, ReceiverExt, SenderExt};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
/// # runtime.block_on(async {
/// let (ours, theirs) = tieline_transport::memory_pair();
/// let (mut sender, _keep) = ours.split();
/// let (_keep_too, mut receiver) = theirs.split();
/// sender.send("hello").await?;
/// let Incoming::Message(message) = receiver.recv().await else { panic!("no message") };
/// assert_eq!(message, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn memory_pair() -> (MemoryChannel, MemoryChannel) {
    let config = MemoryConfig::new("pair");
    let channel = ChannelConfig::default();
    let (left, right) = connection_pair(&config);
    let framed = |end| FramedChannel::new(end, LengthPrefix::default(), channel);
    (framed(left), framed(right))
}

/// The configuration of [`Memory`].
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// The listener's name.
    pub name: String,
    /// The number of bytes that each direction can buffer; 64 KiB by default.
    pub buffer: ByteSize,
}

impl MemoryConfig {
    /// Returns the default configuration for the listener `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), buffer: ByteSize::kib(64) }
    }
}

impl TransportConfig for MemoryConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() {
            return Err(ConfigError { field: "name", must: "not be empty" });
        }
        if self.buffer.bytes() == 0 {
            return Err(ConfigError { field: "buffer", must: "be at least 1 B" });
        }
        Ok(())
    }
}

/// The maximum number of connections that wait to be accepted.
const BACKLOG: usize = 128;

const PROFILE: PerformanceProfile = PerformanceProfile {
    connect: Duration::from_micros(50),
    round_trip: Duration::from_micros(50),
    throughput: ByteSize::new(1_000_000_000),
};

impl Memory {
    fn names(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<MemoryConnection>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Transport for Memory {
    type Config = MemoryConfig;
    type Connection = MemoryConnection;
    type Listener = MemoryListener;

    fn kind(&self) -> TransportKind {
        TransportKind::MEMORY
    }

    fn profile(&self) -> PerformanceProfile {
        PROFILE
    }

    fn config(&self, endpoint: &Endpoint, _: &Options) -> Result<MemoryConfig, TransportError> {
        match endpoint.address() {
            Address::Memory(name) => Ok(MemoryConfig::new(name)),
            _ => Err(crate::endpoint::foreign(endpoint)),
        }
    }

    async fn connect(&self, config: &MemoryConfig) -> Result<MemoryConnection, TransportError> {
        let endpoint = Endpoint::memory(&config.name);
        config.validate().map_err(|error| TransportError::from(error).at(&endpoint))?;
        let fail = |kind| TransportError::new(kind, Operation::Connect).at(&endpoint);
        let listener = self.names().get(&config.name).cloned();
        let listener = listener.ok_or_else(|| fail(ErrorKind::NotFound))?;
        let (ours, theirs) = connection_pair(config);
        listener.send(theirs).await.map_err(|_| fail(ErrorKind::Refused))?;
        Ok(ours)
    }

    async fn listen(&self, config: &MemoryConfig) -> Result<MemoryListener, TransportError> {
        let endpoint = Endpoint::memory(&config.name);
        config.validate().map_err(|error| TransportError::from(error).at(&endpoint))?;
        let mut names = self.names();
        if names.get(&config.name).is_some_and(|listener| !listener.is_closed()) {
            let in_use = TransportError::new(ErrorKind::AddressInUse, Operation::Listen);
            return Err(in_use.at(&endpoint));
        }
        let (sender, incoming) = mpsc::channel(BACKLOG);
        names.insert(config.name.clone(), sender);
        drop(names);
        Ok(MemoryListener { incoming, endpoint, name: config.name.clone(), memory: self.clone() })
    }
}

/// A listener on a name inside this process. Dropping it frees the name.
pub struct MemoryListener {
    incoming: mpsc::Receiver<MemoryConnection>,
    endpoint: Endpoint,
    name: String,
    memory: Memory,
}

impl Listener for MemoryListener {
    type Connection = MemoryConnection;

    async fn accept(&mut self) -> Result<MemoryConnection, TransportError> {
        // The namespace holds a sender as long as this listener exists, so `recv` does not return
        // `None`.
        let accepted = self.incoming.recv().await;
        accepted.ok_or_else(|| TransportError::new(ErrorKind::Io, Operation::Accept))
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.memory.names().remove(&self.name);
    }
}

fn connection_pair(config: &MemoryConfig) -> (MemoryConnection, MemoryConnection) {
    // A separate stream for each direction, so that dropping a half ends only its direction, as in other
    // transports.
    let ((to_right, from_left), (to_left, from_right)) =
        (tokio::io::duplex(config.buffer.bytes()), tokio::io::duplex(config.buffer.bytes()));
    let connection = |read, write| {
        let control = ControlBuilder {
            kind: TransportKind::MEMORY,
            endpoint: Endpoint::memory(&config.name),
            peer: None,
            capabilities: Capabilities { half_close: true, ..Capabilities::default() },
            profile: PROFILE,
            backing: Arc::new(()),
        };
        IoConnection::new(read, write, control.build())
    };
    (connection(from_right, to_right), connection(from_left, to_left))
}
