//! Round trips of a 64-byte line over a Unix socket, one at a time.

use std::path::PathBuf;

use tieline_proto::Lines;
use tieline_transport::{
    Acceptor, Address, Channel, Connector, Endpoint, Incoming, Options, ReceiverExt, Registry,
    SenderExt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{payload, ping_pong, ping_pong_raw};
use crate::compare::{Bench, Result};
use crate::peer::{Peer, announce, connector, listen, listen_raw};
use crate::report::{Goal, TableLine, Unit};

const PAYLOAD: usize = 64;
/// The length of a line with its newline.
pub(super) const FRAME: usize = PAYLOAD + 1;
const TIMES: u32 = 1000;

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let runtime = &bench.runtime;
    let ping = payload(PAYLOAD);

    let peer = Peer::start("echo-typed")?;
    let connector = connector(peer.socket(), Lines::default())?;
    let (mut sender, mut receiver) = runtime.block_on(connector.connect())?.split();
    let typed = bench.side(async || ping_pong(&mut sender, &mut receiver, ping, TIMES).await);

    let peer = Peer::start("echo-boxed")?;
    let (endpoint, options) = (endpoint(peer.socket()), Options::default());
    let channel = runtime.block_on(Registry::new().connect(&endpoint, &options))?;
    let (mut sender, mut receiver) = channel.split();
    let boxed = bench.side(async || ping_pong(&mut sender, &mut receiver, ping, TIMES).await);

    let peer = Peer::start("echo-raw")?;
    let (mut read, mut write) = runtime.block_on(UnixStream::connect(peer.socket()))?.into_split();
    let line = [b'x'; FRAME];
    let raw = bench.side(async || ping_pong_raw(&mut write, &mut read, &line, TIMES).await);

    let [typed, boxed, raw] = bench.interleave([typed, boxed, raw])?;
    let compared = |work, ours: &[f64]| {
        TableLine::compared(work, "raw tokio", Unit::Time, (ours, &raw), Goal::RatioAtMost(1.15))
    };
    Ok(vec![
        compared("Unix echo, 64 bytes, typed channel", &typed),
        compared("Unix echo, 64 bytes, by the registry", &boxed),
    ])
}

fn endpoint(socket: PathBuf) -> Endpoint {
    Endpoint::new(Address::Unix(socket.into()))
}

pub(super) async fn serve_typed(socket: PathBuf) -> Result<()> {
    let mut acceptor = listen(socket, Lines::default()).await?;
    loop {
        tokio::spawn(echo(acceptor.accept().await?));
    }
}

pub(super) async fn serve_boxed(socket: PathBuf) -> Result<()> {
    let mut acceptor = Registry::new().listen(&endpoint(socket), &Options::default()).await?;
    announce()?;
    loop {
        tokio::spawn(echo(acceptor.accept().await?));
    }
}

async fn echo(channel: impl Channel) -> Result<()> {
    let (mut sender, mut receiver) = channel.split();
    while let Incoming::Message(message) = receiver.recv().await {
        sender.send(message).await?;
    }
    Ok(())
}

pub(super) async fn serve_raw(socket: PathBuf) -> Result<()> {
    let listener = listen_raw(socket)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(echo_raw(stream));
    }
}

async fn echo_raw(mut stream: UnixStream) -> Result<()> {
    let mut line = [0; FRAME];
    loop {
        stream.read_exact(&mut line).await?;
        stream.write_all(&line).await?;
    }
}
