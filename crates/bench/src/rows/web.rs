//! What the rows of the web share: a server of ours, and where it is.

use std::path::PathBuf;

use tieline_http::{Access, Place, ServerConfig, Web, WebAcceptor};

use crate::compare::Result;
use crate::peer::{Peer, announce};

/// Connections are no bound of a row's.
pub(super) const MANY: usize = 100_000;

/// Listens for anybody, as it is by default but for how many may come, and announces it.
pub(super) async fn listen(
    socket: PathBuf,
    change: impl FnOnce(&mut ServerConfig),
) -> Result<(Web, WebAcceptor, WebAcceptor)> {
    let place = Place::Tcp { host: "127.0.0.1".to_owned(), port: 0 };
    let mut config = ServerConfig::new(place, Access::Anybody);
    config.limits.connections = MANY;
    config.limits.connections_per_peer = MANY;
    config.limits.event_streams = MANY;
    change(&mut config);
    let listening = Web::listen(config).await?;
    let url = listening.0.endpoint().to_string();
    std::fs::write(socket, url.trim_start_matches("http://"))?;
    announce()?;
    Ok(listening)
}

/// Where a peer listens, which it writes to where its socket would be.
pub(super) fn address(peer: &Peer) -> Result<String> {
    Ok(std::fs::read_to_string(peer.socket())?)
}
