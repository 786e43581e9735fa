//! The throughput of 128-byte lines, one way over a Unix socket. The receiver counts the lines and
//! responds once per round.

use std::path::PathBuf;
use std::time::Instant;

use memchr::memchr_iter;
use tieline_proto::Lines;
use tieline_transport::{
    Acceptor, Channel, Connector, Incoming, Receiver, ReceiverExt, Sender, SenderExt,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{message, payload};
use crate::compare::{Bench, Result};
use crate::peer::{Peer, connector, listen, listen_raw};
use crate::report::{Goal, TableLine, Unit};

const PAYLOAD: usize = 128;
/// The number of whole lines in a chunk of 64 KiB.
pub(super) const LINES_A_CHUNK: usize = 64 * 1024 / (PAYLOAD + 1);

pub(super) const GOAL: Goal = Goal::RatioAtLeast { bar: 0.5, aim: 0.5 };
const CHUNKS: usize = 1000;
const MESSAGES: usize = CHUNKS * LINES_A_CHUNK;

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let runtime = &bench.runtime;

    let peer = Peer::start("stream-typed")?;
    let connector = connector(peer.socket(), Lines::default())?;
    let (mut sender, mut receiver) = runtime.block_on(connector.connect())?.split();
    let line = line();
    let typed = bench.side(async || {
        let begun = Instant::now();
        send(&mut sender, line, MESSAGES).await?;
        message(&mut receiver).await?;
        Ok(MESSAGES as f64 / begun.elapsed().as_secs_f64())
    });

    let peer = Peer::start("stream-raw")?;
    let mut stream = runtime.block_on(UnixStream::connect(peer.socket()))?;
    let raw = bench.side(async || {
        let begun = Instant::now();
        send_raw(&mut stream, CHUNKS).await?;
        stream.read_u8().await?;
        Ok(MESSAGES as f64 / begun.elapsed().as_secs_f64())
    });

    let [typed, raw] = bench.interleave([typed, raw])?;
    let work = "Unix one-way, 128 bytes, lines";
    let unit = Unit::MessagesPerSecond;
    Ok(vec![TableLine::compared(work, "raw tokio, 64 KiB writes", unit, (&typed, &raw), GOAL)])
}

pub(super) async fn serve_typed(socket: PathBuf) -> Result<()> {
    let channel = listen(socket, Lines::default()).await?.accept().await?;
    let (mut sender, mut receiver) = channel.split();
    while receive(&mut receiver, MESSAGES).await.is_ok() {
        sender.send("all").await?;
    }
    Ok(())
}

pub(super) async fn serve_raw(socket: PathBuf) -> Result<()> {
    let (mut stream, _) = listen_raw(socket)?.accept().await?;
    while receive_raw(&mut stream, MESSAGES).await.is_ok() {
        stream.write_all(b"\n").await?;
    }
    Ok(())
}

pub(super) fn line() -> &'static [u8] {
    payload(PAYLOAD)
}

/// Queues the messages and flushes once at the end.
pub(super) async fn send(
    sender: &mut impl Sender,
    message: &'static [u8],
    messages: usize,
) -> Result<()> {
    for _ in 0..messages {
        sender.feed(message).await?;
    }
    Ok(sender.flush().await?)
}

pub(super) async fn receive(receiver: &mut impl Receiver, messages: usize) -> Result<()> {
    for _ in 0..messages {
        match receiver.recv().await {
            Incoming::Message(message) => drop(message),
            other => return Err(format!("expected a message, got {other:?}").into()),
        }
    }
    Ok(())
}

/// Sends the same bytes in prepared chunks.
pub(super) async fn send_raw(write: &mut (impl AsyncWrite + Unpin), chunks: usize) -> Result<()> {
    let line = [line(), b"\n"].concat();
    let chunk = line.repeat(LINES_A_CHUNK);
    for _ in 0..chunks {
        write.write_all(&chunk).await?;
    }
    Ok(())
}

pub(super) async fn receive_raw(
    read: &mut (impl AsyncRead + Unpin),
    messages: usize,
) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut seen = 0;
    while seen < messages {
        let read = match read.read(&mut buffer).await? {
            0 => return Err("the stream ended early".into()),
            read => read,
        };
        seen += memchr_iter(b'\n', buffer.get(..read).unwrap_or_default()).count();
    }
    Ok(())
}
