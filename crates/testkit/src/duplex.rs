//! Channels over a byte stream in memory, for tests that need the bytes at the other end.

use std::sync::Arc;
use std::time::Duration;

use tieline_proto::{ByteSize, Framing};
use tieline_transport::{
    Capabilities, ChannelConfig, ControlBuilder, Endpoint, FramedChannel, IoConnection,
    PerformanceProfile, TransportKind,
};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

/// Returns a channel of this kind over one end of [`tokio::io::duplex`], with the default configuration.
pub fn framed<F: Framing>(
    end: DuplexStream,
    framing: F,
    kind: TransportKind,
    capabilities: Capabilities,
) -> FramedChannel<IoConnection<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>, F> {
    let (read, write) = tokio::io::split(end);
    let control = ControlBuilder {
        kind,
        endpoint: Endpoint::memory("duplex"),
        peer: None,
        capabilities,
        profile: PerformanceProfile {
            connect: Duration::from_secs(1),
            round_trip: Duration::from_secs(1),
            throughput: ByteSize::mib(1),
        },
        backing: Arc::new(()),
    };
    let connection = IoConnection::new(read, write, control.build());
    FramedChannel::new(connection, framing, ChannelConfig::default())
}
