//! A line over this process's own stdin and stdout.
//!
//! Taking them replaces descriptors 0 and 1: stdin becomes the null device and stdout becomes stderr, so
//! that a stray `println!` goes to stderr and cannot corrupt the stream. The original descriptors are
//! inherited and may be shared with other processes, so they stay in blocking mode, and one thread for
//! each moves the bytes. A blocked stdin or stdout prevents neither the runtime nor the process from
//! ending.
//!
//! The transport notices without writing when stdout no longer has a reader, for example because the
//! process that started this one has ended ([`WriteEnd::poll_gone`](crate::WriteEnd::poll_gone)).
//!
//! The platform-independent part is here. The code that takes, reads and writes stdin and stdout, and
//! stops a waiting thread, is in `unix.rs` and, for Windows, in `windows/stdio.rs`.

mod input;
mod output;
#[cfg(unix)]
mod unix;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tieline_proto::ByteSize;

pub use input::Stdin;
pub use output::Stdout;
#[cfg(unix)]
use unix as system;

use crate::connection::IoConnection;
use crate::control::ControlBuilder;
use crate::endpoint::{Address, Endpoint};
use crate::error::{ConfigError, ErrorKind, Operation, TransportError};
use crate::info::{Capabilities, TransportKind};
use crate::options::Options;
use crate::profile::PerformanceProfile;
use crate::transport::{NoListener, Transport, TransportConfig};
#[cfg(windows)]
use crate::windows::stdio as system;

/// This process's own stdin and stdout. A process can take them only once.
///
/// All output that is printed afterwards goes to stderr. On Windows, this is true only for output from
/// Rust: a C library in the same process must no longer use its stdin and stdout, because its runtime
/// keeps the closed handles.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stdio;

/// The connection over this process's stdin and stdout. Shutting down the write half closes stdout.
pub type StdioConnection = IoConnection<Stdin, Stdout>;

/// The configuration of [`Stdio`], which is empty.
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
            _ => Err(crate::endpoint::foreign(endpoint)),
        }
    }

    async fn connect(&self, _: &StdioConfig) -> Result<StdioConnection, TransportError> {
        let endpoint = Endpoint::stdio();
        let failed = |kind| TransportError::new(kind, Operation::Connect).at(&Endpoint::stdio());
        let (source, sink) = take().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => failed(ErrorKind::AlreadyTaken),
            _ => failed(crate::error::common_kind(&error)).because(error),
        })?;
        let no_thread = |error: io::Error| {
            let is_thread = error.kind() == io::ErrorKind::WouldBlock;
            let failed = failed(ErrorKind::ResourcesExhausted).because(error);
            if is_thread { failed.with_hint(crate::error::NO_PROCESS) } else { failed }
        };
        let input = Stdin::new(source).map_err(no_thread)?;
        let output = Stdout::new(sink).map_err(no_thread)?;
        let control = ControlBuilder {
            kind: TransportKind::STDIO,
            endpoint,
            peer: None,
            capabilities: Capabilities {
                half_close: true,
                notices_hangup: true,
                ..Capabilities::default()
            },
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

/// Waits until this process's stdout no longer has a reader. This is for programs that print to stdout
/// without taking it as a line. Must be awaited within a runtime with I/O and timers.
///
/// Never completes if this cannot be determined, for example if stdout is a file. Cancel-safe.
pub async fn stdout_closed() {
    let mut reader = system::Reader::of_stdout();
    std::future::poll_fn(|cx| reader.poll_gone(cx)).await;
}

/// Takes stdin and stdout. After the first success, further calls fail with
/// [`io::ErrorKind::AlreadyExists`].
fn take() -> io::Result<(system::Source, system::Sink)> {
    static IS_TAKEN: AtomicBool = AtomicBool::new(false);
    if IS_TAKEN.swap(true, Ordering::AcqRel) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let taken = system::take();
    if taken.is_err() {
        IS_TAKEN.store(false, Ordering::Release);
    }
    taken
}

const PROFILE: PerformanceProfile = PerformanceProfile {
    connect: Duration::from_millis(1),
    round_trip: Duration::from_millis(1),
    throughput: ByteSize::new(10_000_000),
};
