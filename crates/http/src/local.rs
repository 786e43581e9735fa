//! The streams of this machine below HTTP: Unix sockets, and on Windows named pipes.

use std::time::Duration;

#[cfg(unix)]
use bytes::Bytes;
use tieline_transport::{ErrorKind, Operation, Transport, TransportError};
#[cfg(unix)]
use tieline_transport::{Listener, RefusalNotice, Unix, UnixConfig};
#[cfg(not(unix))]
use tieline_transport::{Pipe, PipeConfig};

#[cfg(not(unix))]
pub(crate) use tieline_transport::{
    PipeConnection as LocalConnection, PipeListener as LocalListener,
};
#[cfg(unix)]
pub(crate) use tieline_transport::{
    UnixConnection as LocalConnection, UnixListener as LocalListener,
};

use crate::address::Place;
use crate::server::ServerConfig;

/// Checks that this system has such a place.
///
/// # Errors
/// It is a pipe outside Windows, or a Unix socket on Windows. The hint says what to use instead.
pub(crate) fn check_platform(place: &Place, operation: Operation) -> Result<(), TransportError> {
    match place {
        Place::Pipe(_) if !cfg!(windows) => Err(unsupported(operation)),
        Place::Unix(_) if !cfg!(unix) => Err(unsupported(operation)),
        _ => Ok(()),
    }
}

fn unsupported(operation: Operation) -> TransportError {
    let hint = match cfg!(windows) {
        true => "tieline has no Unix sockets on Windows; use http-pipe:NAME or ws-pipe:NAME here",
        false => "named pipes exist only on Windows; use http-unix:PATH or ws-unix:PATH here",
    };
    TransportError::new(ErrorKind::UnsupportedPlatform, operation).with_hint(hint)
}

/// Connects to a Unix socket that belongs to one of `allow_uids`, this user or root.
#[cfg(unix)]
pub(crate) async fn connect(
    place: &Place,
    allow_uids: &[u32],
    connect_timeout: Duration,
) -> Result<LocalConnection, TransportError> {
    let Place::Unix(path) = place else { return Err(unsupported(Operation::Connect)) };
    let allow_uids = allow_uids.to_vec();
    Unix.connect(&UnixConfig { allow_uids, connect_timeout, ..UnixConfig::new(path) }).await
}

/// Connects to a pipe of this user, LocalSystem or the administrators.
#[cfg(not(unix))]
pub(crate) async fn connect(
    place: &Place,
    _: &[u32],
    connect_timeout: Duration,
) -> Result<LocalConnection, TransportError> {
    let Place::Pipe(name) = place else { return Err(unsupported(Operation::Connect)) };
    Pipe.connect(&PipeConfig { connect_timeout, ..PipeConfig::new(name) }).await
}

/// Listens at the place of `config`.
#[cfg(unix)]
pub(crate) async fn listen(config: &ServerConfig) -> Result<LocalListener, TransportError> {
    let Place::Unix(path) = &config.place else { return Err(unsupported(Operation::Listen)) };
    let allow_uids = config.allow_uids.clone();
    let (mode, group) = (config.socket_mode, config.socket_group);
    let unix = UnixConfig { allow_uids, mode, group, ..UnixConfig::new(path) };
    let mut listener = Unix.listen(&unix).await?;
    listener.refuse_with(RefusalNotice { bytes: user_refusal(), is_response: true });
    Ok(listener)
}

/// Listens at the place of `config`.
#[cfg(not(unix))]
pub(crate) async fn listen(config: &ServerConfig) -> Result<LocalListener, TransportError> {
    let Place::Pipe(name) = &config.place else { return Err(unsupported(Operation::Listen)) };
    let security = config.pipe_security.clone();
    Pipe.listen(&PipeConfig { security, ..PipeConfig::new(name) }).await
}

/// Returns the response to clients whose user is not allowed.
#[cfg(unix)]
fn user_refusal() -> Bytes {
    let text =
        "this server does not accept your user; its owner can start it with --allow-uid UID\n";
    let length = text.len();
    format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{text}"
    )
    .into()
}

#[cfg(test)]
mod tests {
    use tieline_transport::{Options, Registry};

    use super::*;
    use crate::{ClientConfig, HttpServer, Token};

    #[tokio::test]
    async fn places_of_other_systems_are_refused_with_a_hint() {
        let (endpoints, instead) = match cfg!(windows) {
            true => (["http-unix:/run/a.sock", "ws-unix:/run/a.sock"], "use http-pipe:NAME"),
            false => (["http-pipe:a", "ws-pipe:a"], "use http-unix:PATH"),
        };
        let mut registry = Registry::new();
        crate::register(&mut registry, ClientConfig::default());
        for text in endpoints {
            let endpoint = text.parse().unwrap();
            let error = registry.connect(&endpoint, &Options::default()).await.err().unwrap();
            assert!(matches!(error.kind(), ErrorKind::UnsupportedPlatform), "{error}");
            assert!(error.hint().unwrap().contains(instead), "{error:?}");
            assert!(!error.is_retryable() && error.to_string().contains(text), "{error}");
        }
        let config = ServerConfig::at(&endpoints[0].parse().unwrap(), Token::random().unwrap());
        let error = HttpServer::listen(config.unwrap()).await.err().unwrap();
        assert!(matches!(error.kind(), ErrorKind::UnsupportedPlatform), "{error}");
        assert!(error.hint().unwrap().contains(instead), "{error:?}");
        assert!(error.to_string().contains(endpoints[0]), "{error}");
    }
}
