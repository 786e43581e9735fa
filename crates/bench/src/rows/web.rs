//! A server for the web rows, and its address.

use std::path::PathBuf;

use tieline_http::{Access, HttpServer, Place, ServerConfig, WebAcceptor};

use crate::compare::Result;
use crate::peer::{Peer, announce};

/// The limit on connections, which exceeds the number that any row opens.
pub(super) const MANY: usize = 100_000;

/// Listens without authentication, with the defaults except for the number of connections, and reports
/// that it is listening.
pub(super) async fn listen(
    socket: PathBuf,
    change: impl FnOnce(&mut ServerConfig),
) -> Result<(HttpServer, WebAcceptor, WebAcceptor)> {
    let place = Place::Tcp { host: "127.0.0.1".to_owned(), port: 0 };
    let mut config = ServerConfig::new(place, Access::Anybody);
    config.limits.connections = MANY;
    config.limits.connections_per_peer = MANY;
    config.limits.event_streams = MANY;
    change(&mut config);
    let listening = HttpServer::listen(config).await?;
    let url = listening.0.endpoint().to_string();
    std::fs::write(socket, url.trim_start_matches("http://"))?;
    announce()?;
    Ok(listening)
}

/// Returns the address of a peer, which the peer has written to a file at the path of its socket.
pub(super) fn address(peer: &Peer) -> Result<String> {
    Ok(std::fs::read_to_string(peer.socket())?)
}
