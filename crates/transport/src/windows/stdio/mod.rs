//! This process's own stdin and stdout as a line, on Windows.
//!
//! Taking them moves the real ones aside: from then on stdin is the null device and stdout is stderr,
//! so that a stray `println!` of the program lands on stderr. A console is left where it is: the system
//! reads and writes text there, and nobody else's stream can be corrupted. What is inherited knows no
//! overlapped reads, so a thread for each blocks in the system. It is told to stop when its half is
//! dropped, and nothing ever waits for it: neither the runtime nor the process.

mod input;
mod output;
mod takeover;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tieline_proto::ByteSize;

pub use input::Stdin;
pub use output::Stdout;

use crate::control::ControlBuilder;
use crate::{
    Address, Capabilities, ConfigError, Endpoint, ErrorKind, IoConnection, NoListener, Operation,
    Options, PerformanceProfile, Transport, TransportConfig, TransportError, TransportKind,
};

/// Own stdin and stdout. They can be taken once in the life of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stdio;

/// The connection over own stdin and stdout. Shutting down the writing half closes stdout.
pub type StdioConnection = IoConnection<Stdin, Stdout>;

/// What [`Stdio`] needs to know: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdioConfig;

impl TransportConfig for StdioConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}

impl Transport for Stdio {
    type Config = StdioConfig;
    type Connection = StdioConnection;
    type Listener = NoListener<StdioConnection>;

    fn kind(&self) -> TransportKind {
        TransportKind::STDIO
    }

    fn profile(&self) -> PerformanceProfile {
        PROFILE
    }

    fn config(&self, endpoint: &Endpoint, _: &Options) -> Result<StdioConfig, TransportError> {
        match endpoint.address() {
            Address::Stdio => Ok(StdioConfig),
            _ => Err(crate::registry::foreign(endpoint)),
        }
    }

    async fn connect(&self, _: &StdioConfig) -> Result<StdioConnection, TransportError> {
        let endpoint = Endpoint::stdio();
        let failed = |error: io::Error| {
            let error_at =
                |kind| TransportError::new(kind, Operation::Connect).at(&Endpoint::stdio());
            match error.kind() {
                io::ErrorKind::AlreadyExists => error_at(ErrorKind::AlreadyTaken),
                _ => error_at(crate::error::common_kind(&error)).because(error),
            }
        };
        let (source, sink) = takeover::take().map_err(failed)?;
        let input = Stdin::new(source).map_err(failed)?;
        let output = Stdout::new(sink).map_err(failed)?;
        let control = ControlBuilder {
            kind: TransportKind::STDIO,
            endpoint,
            peer: None,
            capabilities: Capabilities { half_close: true, ..Capabilities::default() },
            profile: PROFILE,
            backing: Arc::new(()),
        };
        Ok(IoConnection::new(input, output, control.build()))
    }

    async fn listen(&self, _: &StdioConfig) -> Result<NoListener<StdioConnection>, TransportError> {
        Err(TransportError::new(ErrorKind::UnsupportedOperation, Operation::Listen)
            .at(&Endpoint::stdio())
            .with_hint("stdin and stdout are one line; connect to it"))
    }
}

const PROFILE: PerformanceProfile = PerformanceProfile {
    connect: Duration::from_millis(1),
    round_trip: Duration::from_millis(1),
    throughput: ByteSize::new(10_000_000),
};
