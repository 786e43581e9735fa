//! This process's own stdin and stdout as a line.
//!
//! Taking them moves the real ones aside: from then on descriptor 0 is the null device and
//! descriptor 1 is stderr, so that a stray `println!` of the program lands on stderr and cannot
//! corrupt the stream. The real ones are inherited and may be shared with other processes, so they
//! are never made non-blocking: a thread for each waits in `poll` and moves the bytes. A blocked
//! stdin or stdout keeps neither the runtime nor the process from ending.

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
        let taken = takeover::take().map_err(|error| {
            let failed = |kind| TransportError::new(kind, Operation::Connect).at(&endpoint);
            match error.kind() {
                io::ErrorKind::AlreadyExists => failed(ErrorKind::AlreadyTaken),
                _ => failed(crate::error::common_kind(&error)).because(error),
            }
        })?;
        let failed = |error| {
            TransportError::new(ErrorKind::ResourcesExhausted, Operation::Connect).because(error)
        };
        let input = Stdin::new(taken.stdin).map_err(failed)?;
        let output = Stdout::new(taken.stdout).map_err(failed)?;
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
