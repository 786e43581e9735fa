//! Named pipes as connections.

mod connect;
mod listen;
mod stream;

use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::windows::named_pipe::{NamedPipeClient, NamedPipeServer};

pub(crate) use connect::connect;
pub use listen::PipeListener;
pub(crate) use listen::listen;
pub use stream::{PipeReadHalf, PipeWriteHalf};

use super::{PeerIdentity, security};
use crate::connection::IoConnection;
use crate::control::ControlBuilder;
use crate::endpoint::Endpoint;
use crate::info::{Capabilities, TransportKind};
use crate::pipe::config::{PROFILE, PipeConfig};

/// A connection over a named pipe.
pub type PipeConnection = IoConnection<PipeReadHalf, PipeWriteHalf>;

fn path(config: &PipeConfig) -> PathBuf {
    format!(r"\\.\pipe\{}", config.name).into()
}

/// Our end of a connected pipe.
#[derive(Debug)]
enum End {
    Server(NamedPipeServer),
    Client(NamedPipeClient),
}

impl End {
    /// Calls `question` with the pipe's handle.
    #[allow(unsafe_code)]
    fn ask<T>(&self, question: impl FnOnce(BorrowedHandle<'_>) -> T) -> T {
        let handle = match self {
            Self::Server(pipe) => pipe.as_raw_handle(),
            Self::Client(pipe) => pipe.as_raw_handle(),
        };
        // SAFETY: the pipe is borrowed as long as the handle, and cannot be closed during that time.
        question(unsafe { BorrowedHandle::borrow_raw(handle) })
    }

    /// Returns the identity of the peer, as far as it is known.
    fn peer(&self) -> io::Result<PeerIdentity> {
        let pid = match self {
            // A client that has already left has no identity. This is not an error.
            Self::Server(_) => self.ask(security::client_of).ok(),
            Self::Client(_) => Some(self.ask(security::server_of)?),
        };
        Ok(PeerIdentity { pid, user: pid.and_then(|pid| security::user_of(pid).ok()) })
    }
}

fn connection(end: End, peer: PeerIdentity, endpoint: &Endpoint) -> PipeConnection {
    let (read, write) = stream::split(end);
    let control = ControlBuilder {
        kind: TransportKind::PIPE,
        endpoint: endpoint.clone(),
        peer: Some(peer),
        capabilities: Capabilities {
            half_close: false,
            peer_identity: true,
            // The read half notices it and wakes the write half.
            notices_hangup: true,
            ..Capabilities::default()
        },
        profile: PROFILE,
        backing: Arc::new(()),
    };
    IoConnection::new(read, write, control.build())
}
