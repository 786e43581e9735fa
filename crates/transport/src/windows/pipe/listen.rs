//! Listening on a named pipe, as the creator of its first instance. There is always an instance to which
//! clients can connect.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::task::Poll;

use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_PIPE_BUSY};

use super::{End, PipeConnection, connection, path};
use crate::control::BoxFuture;
use crate::endpoint::Endpoint;
use crate::error::{ConfigError, ErrorKind, Operation, TransportError, common_kind};
use crate::pipe::config::PipeConfig;
use crate::transport::Listener;
use crate::windows::is_code;
use crate::windows::security::{self, Descriptor, Sid};

/// How many bytes an instance buffers in each direction before a writer waits.
const BUFFER: u32 = 64 * 1024;

/// A listener on a named pipe. Dropping it stops listening; accepted connections continue.
pub struct PipeListener {
    path: PathBuf,
    endpoint: Endpoint,
    descriptor: Descriptor,
    /// The only user that may connect; `None` if a custom descriptor decides.
    only: Option<Sid>,
    backlog: usize,
    /// The instances without a client. Each is used once: after its client has left, it is closed and
    /// not connected again.
    waiting: Vec<BoxFuture<'static, io::Result<NamedPipeServer>>>,
}

pub(crate) fn listen(
    config: &PipeConfig,
    endpoint: &Endpoint,
) -> Result<PipeListener, TransportError> {
    let io = |error: io::Error| {
        TransportError::new(common_kind(&error), Operation::Listen).because(error)
    };
    let (descriptor, only) = match &config.security {
        None => (Descriptor::private().map_err(io)?, Some(security::current_user().map_err(io)?)),
        Some(text) => {
            let parsed = Descriptor::owned_by_us(text).map_err(|error| {
                let must = "be a security descriptor in SDDL with an access list, such as \
                            D:P(A;;GA;;;OW)(A;;0x12019b;;;BA)";
                TransportError::from(ConfigError { field: "security", must }).because(error)
            });
            (parsed?, None)
        }
    };
    let mut listener = PipeListener {
        path: path(config),
        endpoint: endpoint.clone(),
        descriptor,
        only,
        backlog: usize::from(config.backlog),
        waiting: Vec::new(),
    };
    listener.make_instance(true).map_err(|error| {
        // The system returns these errors if the first instance exists already.
        let is_taken = is_code(&error, &[ERROR_ACCESS_DENIED, ERROR_PIPE_BUSY]);
        let kind = if is_taken { ErrorKind::AddressInUse } else { common_kind(&error) };
        TransportError::new(kind, Operation::Listen)
            .because(error)
            .with_hint("choose another name, or stop the program that listens there")
    })?;
    if listener.only.is_none() {
        // The first instance can always be created, the others only if the descriptor allows it.
        listener.make_instance(false).map_err(|error| {
            let must = "admit the server's own user, who creates further instances of the pipe: \
                        include (A;;GA;;;OW), and name no other owner";
            TransportError::from(ConfigError { field: "security", must }).because(error)
        })?;
    }
    listener.fill().map_err(io)?;
    Ok(listener)
}

impl PipeListener {
    fn make_instance(&mut self, is_first: bool) -> io::Result<()> {
        let mut options = ServerOptions::new();
        options.first_pipe_instance(is_first).reject_remote_clients(true);
        options.in_buffer_size(BUFFER).out_buffer_size(BUFFER);
        let pipe = self.descriptor.create(&options, &self.path)?;
        self.waiting.push(Box::pin(async move { pipe.connect().await.map(|()| pipe) }));
        Ok(())
    }

    /// Creates the missing instances. Fails only if there are no instances.
    fn fill(&mut self) -> io::Result<()> {
        while self.waiting.len() < self.backlog {
            match self.make_instance(false) {
                Ok(()) => {}
                Err(error) if self.waiting.is_empty() => return Err(error),
                Err(error) => {
                    tracing::debug!("cannot create another instance of {}: {error}", self.endpoint);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Waits for the next client. Cancel-safe.
    async fn next(&mut self) -> io::Result<NamedPipeServer> {
        poll_fn(|cx| {
            let connected = self.waiting.iter_mut().enumerate().find_map(|(at, instance)| {
                match instance.as_mut().poll(cx) {
                    Poll::Ready(connected) => Some((at, connected)),
                    Poll::Pending => None,
                }
            });
            let Some((at, connected)) = connected else { return Poll::Pending };
            drop(self.waiting.swap_remove(at));
            // The next instance is created before this one is returned.
            if let Err(error) = self.make_instance(false) {
                tracing::debug!("cannot create another instance of {}: {error}", self.endpoint);
            }
            Poll::Ready(connected)
        })
        .await
    }

    fn admit(&self, pipe: NamedPipeServer) -> Result<PipeConnection, TransportError> {
        let end = End::Server(pipe);
        let peer = end.peer().map_err(|error| {
            TransportError::new(common_kind(&error), Operation::Accept).because(error)
        })?;
        // If the user is unknown, the descriptor has still refused all other users.
        match (self.only, peer.user) {
            (Some(only), Some(user)) if user != only && !user.is_root() => {
                Err(TransportError::new(ErrorKind::PeerNotAllowed(peer), Operation::Accept))
            }
            _ => Ok(connection(end, peer, &self.endpoint)),
        }
    }
}

impl Listener for PipeListener {
    type Connection = PipeConnection;

    async fn accept(&mut self) -> Result<PipeConnection, TransportError> {
        loop {
            let connected = match self.fill() {
                Ok(()) => self.next().await,
                Err(error) => Err(error),
            };
            let pipe = connected.map_err(|error| {
                TransportError::new(ErrorKind::ResourcesExhausted, Operation::Accept)
                    .at(&self.endpoint)
                    .because(error)
            })?;
            match self.admit(pipe) {
                Ok(connection) => return Ok(connection),
                // A refused client must not make the listener fail.
                Err(error) => {
                    tracing::warn!("refused a connection: {}", error.at(&self.endpoint));
                }
            }
        }
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl fmt::Debug for PipeListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeListener").field("path", &self.path).finish_non_exhaustive()
    }
}
