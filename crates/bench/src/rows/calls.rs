//! JSON-RPC calls over a Unix socket: one at a time beside the raw bytes, and 64 in flight beside
//! what a good user writes by hand.

mod by_hand;

use std::path::PathBuf;
use std::time::Instant;

use tieline_proto::Lines;
use tieline_rpc::{Peer, PeerOptions, Router};
use tieline_transport::{Acceptor, Connector};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::ping_pong_raw;
use crate::compare::{Bench, Result};
use crate::peer::{Peer as Process, connector, listen};
use crate::report::{Goal, Line, Unit};

const PAYLOAD: usize = 64;
const IN_FLIGHT: u32 = 64;
const CALLS_EACH: u32 = 100;
const ONE_AT_A_TIME: u32 = 1000;

pub(super) fn run(bench: &Bench) -> Result<Vec<Line>> {
    let runtime = &bench.runtime;
    let text = "x".repeat(PAYLOAD);

    let process = Process::start("calls-tieline")?;
    let channel = runtime.block_on(connector(process.socket(), Lines::default())?.connect())?;
    let (peer, driver) = Peer::new(channel, (), PeerOptions::default());
    let _driver = runtime.spawn(driver);
    let one = bench.side(async || {
        let begun = Instant::now();
        for _ in 0..ONE_AT_A_TIME {
            peer.call::<(String,)>("echo", (&text,)).await?;
        }
        Ok(begun.elapsed().as_secs_f64() / f64::from(ONE_AT_A_TIME))
    });
    let many = bench.side(async || {
        in_flight(|| {
            let (peer, text) = (peer.clone(), text.clone());
            async move {
                for _ in 0..CALLS_EACH {
                    peer.call::<(String,)>("echo", (&text,)).await?;
                }
                Ok(())
            }
        })
        .await
    });

    // What one call is on the wire, there and back being of nearly the same length.
    let process = Process::start("echo-raw-call")?;
    let stream = runtime.block_on(UnixStream::connect(process.socket()))?;
    let (mut read, mut write) = stream.into_split();
    let line = vec![b'x'; ON_THE_WIRE];
    let raw = bench.side(async || ping_pong_raw(&mut write, &mut read, &line, ONE_AT_A_TIME).await);

    let process = Process::start("calls-by-hand")?;
    let client = runtime.block_on(by_hand::Client::connect(process.socket()))?;
    let by_hand = bench.side(async || {
        in_flight(|| {
            let (client, text) = (client.clone(), text.clone());
            async move {
                for _ in 0..CALLS_EACH {
                    client.echo(&text).await?;
                }
                Ok(())
            }
        })
        .await
    });

    let [one, raw] = bench.interleave([one, raw])?;
    let [many, by_hand] = bench.interleave([many, by_hand])?;
    Ok(vec![
        Line::compared(
            "JSON-RPC call, 64 bytes, one at a time",
            "raw tokio",
            Unit::Time,
            (&one, &raw),
            Goal::RatioAtMost(1.15),
        ),
        Line::compared(
            "JSON-RPC calls, 64 bytes, 64 in flight",
            "lines and serde_json by hand",
            Unit::MessagesPerSecond,
            (&many, &by_hand),
            Goal::RatioAtLeast { bar: 2.5, aim: 3.0 },
        ),
    ])
}

/// `{"jsonrpc":"2.0","id":1000,"method":"echo","params":["…"]}` and its newline, about.
const ON_THE_WIRE: usize = PAYLOAD + 60;

/// Calls a second, of all tasks together.
async fn in_flight<F>(task: impl Fn() -> F) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let begun = Instant::now();
    let mut tasks: JoinSet<Result<()>> = (0..IN_FLIGHT).map(|_| task()).collect();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(f64::from(IN_FLIGHT * CALLS_EACH) / begun.elapsed().as_secs_f64())
}

pub(super) async fn serve_tieline(socket: PathBuf) -> Result<()> {
    let mut acceptor = listen(socket, Lines::default()).await?;
    loop {
        let router = Router::new().request("echo", |text: (String,), _| async move { Ok(text) });
        let channel = acceptor.accept().await?;
        let (_peer, driver) = Peer::new(channel, router, PeerOptions::default());
        tokio::spawn(driver);
    }
}

pub(super) async fn serve_by_hand(socket: PathBuf) -> Result<()> {
    by_hand::serve(socket).await
}

/// The raw bytes of a call, given back.
pub(super) async fn serve_raw(socket: PathBuf) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = crate::peer::listen_raw(socket)?;
    let (mut stream, _) = listener.accept().await?;
    let mut line = vec![0; ON_THE_WIRE];
    loop {
        stream.read_exact(&mut line).await?;
        stream.write_all(&line).await?;
    }
}
