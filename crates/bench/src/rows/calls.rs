//! JSON-RPC calls over a Unix socket. Calls made one at a time are compared with raw bytes, and 64 calls
//! in flight with a good manual implementation. Both are also compared with other libraries.

mod by_hand;
mod careful;
pub(crate) mod client;
pub(crate) mod counted;
pub(super) mod libraries;

use std::path::PathBuf;
use std::time::Instant;

use tieline_proto::Lines;
use tieline_rpc::{Peer, PeerOptions, Router};
use tieline_transport::{Acceptor, Connector};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use self::libraries::{Ends, LIBRARIES, Library};
use super::ping_pong_raw;
use crate::compare::{Bench, Result};
use crate::peer::{Peer as Process, connector, listen};
use crate::report::{Goal, TableLine, Unit};

const PAYLOAD: usize = 64;
const IN_FLIGHT: u32 = 64;
const CALLS_EACH: u32 = 100;
const ONE_AT_A_TIME: u32 = 1000;

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let runtime = &bench.runtime;
    let text = "x".repeat(PAYLOAD);

    let process = Process::start("calls-tieline")?;
    let channel = runtime.block_on(connector(process.socket(), Lines::default())?.connect())?;
    let (peer, driver) = Peer::new(channel, (), PeerOptions::default());
    let _driver = runtime.spawn(driver);
    let one = bench.side(async || {
        let begun = Instant::now();
        // The calls run in a task, as in real programs. With the current-thread runtime, waking a future
        // that `block_on` itself awaits goes through the reactor, which costs a system call.
        in_flight(1, || calls(peer.clone(), text.clone(), ONE_AT_A_TIME)).await?;
        Ok(begun.elapsed().as_secs_f64() / f64::from(ONE_AT_A_TIME))
    });
    let many = bench.side(async || echoes_a_second(&peer).await);

    // The size of one call on the wire; request and response have almost the same length.
    let process = Process::start("echo-raw-call")?;
    let stream = runtime.block_on(UnixStream::connect(process.socket()))?;
    let (mut read, mut write) = stream.into_split();
    let line = vec![b'x'; ON_THE_WIRE];
    let raw = bench.side(async || ping_pong_raw(&mut write, &mut read, &line, ONE_AT_A_TIME).await);

    let process = Process::start("calls-by-hand")?;
    let client = runtime.block_on(by_hand::Client::connect(process.socket()))?;
    let by_hand = bench.side(async || {
        calls_a_second(|| {
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

    // Libraries that cannot be started are listed in the table as skipped.
    let (mut running, mut missing) = (Vec::new(), Vec::new());
    for library in LIBRARIES {
        match library.start() {
            Ok(ends) => running.push((library, ends)),
            Err(why) => missing.push((library, why)),
        }
    }
    let (libraries, mut theirs): (Vec<Library>, Vec<_>) = running.into_iter().unzip();
    let others = theirs.iter_mut().map(Ends::one).collect();
    let ([one, raw], others_one) = bench.interleave_with([one, raw], others)?;
    let others = theirs.iter_mut().map(Ends::many).collect();
    let ([many, by_hand], others_many) = bench.interleave_with([many, by_hand], others)?;

    let compared_one = |against, theirs: &[f64], goal| {
        TableLine::compared(ONE, against, Unit::Time, (&one, theirs), goal)
    };
    let compared_many = |against, theirs: &[f64], goal| {
        TableLine::compared(MANY, against, Unit::MessagesPerSecond, (&many, theirs), goal)
    };
    let mut lines = vec![compared_one("raw tokio", &raw, Goal::RatioAtMost(1.15))];
    lines.extend(
        (libraries.iter().zip(&others_one))
            .map(|(it, theirs)| compared_one(it.against, theirs, it.goal_of_one())),
    );
    let goal = Goal::RatioAtLeast { bar: 2.5, aim: 3.0 };
    lines.push(compared_many("lines and serde_json by hand", &by_hand, goal));
    lines.extend(
        (libraries.iter().zip(&others_many))
            .map(|(it, theirs)| compared_many(it.against, theirs, it.goal_of_many())),
    );
    lines.extend(missing.iter().map(|(library, why)| {
        TableLine::skipped(
            format!("JSON-RPC calls compared with {}", library.against),
            &why.to_string(),
        )
    }));
    Ok(lines)
}

const ONE: &str = "JSON-RPC call, 64 bytes, one at a time";
const MANY: &str = "JSON-RPC calls, 64 bytes, 64 in flight";

/// The approximate length of `{"jsonrpc":"2.0","id":1000,"method":"echo","params":["…"]}` with its
/// newline.
const ON_THE_WIRE: usize = PAYLOAD + 60;

/// Returns the number of calls per second to a peer that echoes, with 64 calls in flight.
pub(super) async fn echoes_a_second(peer: &Peer) -> Result<f64> {
    let text = "x".repeat(PAYLOAD);
    calls_a_second(|| calls(peer.clone(), text.clone(), CALLS_EACH)).await
}

/// Makes calls one after the other.
async fn calls(peer: Peer, text: String, calls: u32) -> Result<()> {
    for _ in 0..calls {
        peer.call::<(String,)>("echo", (&text,)).await?;
    }
    Ok(())
}

/// Returns the number of calls per second of all tasks together.
async fn calls_a_second<F>(task: impl Fn() -> F) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let begun = Instant::now();
    in_flight(IN_FLIGHT, task).await?;
    Ok(f64::from(IN_FLIGHT * CALLS_EACH) / begun.elapsed().as_secs_f64())
}

/// Runs several tasks concurrently until all are finished.
async fn in_flight<F>(tasks: u32, task: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut tasks: JoinSet<Result<()>> = (0..tasks).map(|_| task()).collect();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

pub(super) async fn serve_tieline(socket: PathBuf) -> Result<()> {
    let mut acceptor = listen(socket, Lines::default()).await?;
    loop {
        let channel = acceptor.accept().await?;
        let (_peer, driver) = Peer::new(channel, router(), PeerOptions::default());
        tokio::spawn(driver);
    }
}

fn router() -> Router {
    Router::new().request("echo", |text: (String,), _| async move { Ok(text) })
}

pub(super) async fn serve_careful(socket: PathBuf) -> Result<()> {
    careful::serve(socket).await
}

pub(super) async fn serve_by_hand(socket: PathBuf) -> Result<()> {
    by_hand::serve(socket).await
}

/// Echoes the raw bytes of a call.
pub(super) async fn serve_raw(socket: PathBuf) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = crate::peer::listen_raw(socket)?;
    let (mut stream, _) = listener.accept().await?;
    let mut line = vec![0; ON_THE_WIRE];
    // The caller closes the connection when it is done.
    while stream.read_exact(&mut line).await.is_ok() {
        stream.write_all(&line).await?;
    }
    Ok(())
}
