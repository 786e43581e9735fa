//! Messages of 1 MiB are sent one way over a Unix socket, in two framings. The receiver responds once
//! per round.

use std::path::PathBuf;
use std::time::Instant;

use tieline_proto::{Framing, LengthPrefix, Lines};
use tieline_transport::{Acceptor, Channel, Connector, SenderExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{message, payload, stream};
use crate::compare::{Bench, Result, Side};
use crate::peer::{Peer, connector, listen, listen_raw};
use crate::report::{Goal, TableLine, Unit};

const SIZE: usize = 1024 * 1024;
const MESSAGES: usize = 128;

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let prefix_peer = Peer::start("bulk-length-prefix")?;
    let prefix = side(bench, &prefix_peer, LengthPrefix::default())?;
    let lines_peer = Peer::start("bulk-lines")?;
    let lines = side(bench, &lines_peer, Lines::default())?;

    let peer = Peer::start("bulk-raw")?;
    let mut stream = bench.runtime.block_on(UnixStream::connect(peer.socket()))?;
    let bytes = payload(SIZE);
    let raw = bench.side(async || {
        let begun = Instant::now();
        for _ in 0..MESSAGES {
            stream.write_all(bytes).await?;
        }
        stream.read_u8().await?;
        Ok((SIZE * MESSAGES) as f64 / begun.elapsed().as_secs_f64())
    });

    let [prefix, lines, raw] = bench.interleave([prefix, lines, raw])?;
    let goal = Goal::RatioAtLeast { bar: 0.8, aim: 0.9 };
    let compared = |work, ours: &[f64]| {
        TableLine::compared(work, "raw socket copy", Unit::BytesPerSecond, (ours, &raw), goal)
    };
    Ok(vec![
        compared("Unix bulk, 1 MiB, length-prefix", &prefix),
        compared("Unix bulk, 1 MiB, lines", &lines),
    ])
}

fn side<'a>(bench: &'a Bench, peer: &Peer, framing: impl Framing) -> Result<Side<'a>> {
    let connector = connector(peer.socket(), framing)?;
    let (mut sender, mut receiver) = bench.runtime.block_on(connector.connect())?.split();
    let bytes = payload(SIZE);
    Ok(bench.side(async move || {
        let begun = Instant::now();
        stream::send(&mut sender, bytes, MESSAGES).await?;
        message(&mut receiver).await?;
        Ok((SIZE * MESSAGES) as f64 / begun.elapsed().as_secs_f64())
    }))
}

pub(super) async fn serve_length_prefix(socket: PathBuf) -> Result<()> {
    serve(socket, LengthPrefix::default()).await
}

pub(super) async fn serve_lines(socket: PathBuf) -> Result<()> {
    serve(socket, Lines::default()).await
}

async fn serve(socket: PathBuf, framing: impl Framing) -> Result<()> {
    let channel = listen(socket, framing).await?.accept().await?;
    let (mut sender, mut receiver) = channel.split();
    while stream::receive(&mut receiver, MESSAGES).await.is_ok() {
        sender.send("all").await?;
    }
    Ok(())
}

/// Repeatedly reads from the socket into one buffer.
pub(super) async fn serve_raw(socket: PathBuf) -> Result<()> {
    let (mut stream, _) = listen_raw(socket)?.accept().await?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut left = SIZE * MESSAGES;
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                read => left = left.saturating_sub(read),
            }
        }
        stream.write_all(b"\n").await?;
    }
}
