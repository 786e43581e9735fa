//! One process repeatedly connects to a Unix socket, and the other accepts the connections. The latter
//! sends a message on the last connection of a round when it has accepted all of them. The time to close
//! them is not measured.

use std::path::PathBuf;
use std::time::Instant;

use tieline_proto::Lines;
use tieline_transport::{Acceptor, Channel, Connector, SenderExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::message;
use crate::compare::{Bench, Result};
use crate::peer::{Peer, connector, listen, listen_raw};
use crate::report::{Goal, TableLine, Unit};

/// The number of connections per round, which is smaller than the backlog of any listener.
const CONNECTIONS: usize = 500;

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let peer = Peer::start("connect-typed")?;
    let connector = connector(peer.socket(), Lines::default())?;
    let typed = bench.side(async || {
        let begun = Instant::now();
        let mut held = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            held.push(connector.connect().await?);
        }
        let last = held.pop().ok_or("no connection")?;
        message(&mut last.split().1).await?;
        Ok(begun.elapsed().as_secs_f64() / CONNECTIONS as f64)
    });

    let peer = Peer::start("connect-raw")?;
    let raw = bench.side(async || {
        let begun = Instant::now();
        let mut held = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            held.push(UnixStream::connect(peer.socket()).await?);
        }
        held.last_mut().ok_or("no connection")?.read_u8().await?;
        Ok(begun.elapsed().as_secs_f64() / CONNECTIONS as f64)
    });

    let [typed, raw] = bench.interleave([typed, raw])?;
    let (work, goal) = ("Unix connect and accept", Goal::RatioAtMost(2.0));
    Ok(vec![TableLine::compared(work, "raw tokio", Unit::Time, (&typed, &raw), goal)])
}

pub(super) async fn serve_typed(socket: PathBuf) -> Result<()> {
    let mut acceptor = listen(socket, Lines::default()).await?;
    loop {
        let mut held = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            held.push(acceptor.accept().await?);
        }
        let last = held.pop().ok_or("no connection")?;
        last.split().0.send("all").await?;
    }
}

pub(super) async fn serve_raw(socket: PathBuf) -> Result<()> {
    let listener = listen_raw(socket)?;
    loop {
        let mut held = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            held.push(listener.accept().await?.0);
        }
        held.last_mut().ok_or("no connection")?.write_all(b"\n").await?;
    }
}
