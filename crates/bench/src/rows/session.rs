//! A resumable session is compared with the bare channel that carries it, to measure the cost of
//! keeping, numbering and acknowledging messages.

use std::path::PathBuf;
use std::time::Instant;

use tieline_link::SessionOptions;
use tieline_proto::FramingKind;
use tieline_rpc::{Peer, PeerOptions, Router};
use tieline_transport::{
    BoxChannel, Channel, Endpoint, Incoming, Options, ReceiverExt, Registry, SenderExt,
};

use super::{calls, message, payload, ping_pong, stream};
use crate::compare::{Bench, Result, Side};
use crate::peer::{Peer as Process, announce};
use crate::report::{Goal, TableLine, Unit};

const TIMES: u32 = 1000;
const BULK: usize = 1024 * 1024;

const THROUGHPUT: Goal = Goal::RatioAtLeast { bar: 0.85, aim: 0.85 };
const ROUND_TRIP: Goal = Goal::RatioAtMost(1.1);

/// The work of the other process.
#[derive(Clone, Copy)]
enum Work {
    Echo,
    /// Receives this many messages and sends one response.
    Take(usize),
    Calls,
}

const SMALL: Work = Work::Take(500_000);
const LARGE: Work = Work::Take(128);

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let mut lines = Vec::new();
    let echoes = bench.interleave([
        echo(bench, &Process::start("session-echo")?, true)?,
        echo(bench, &Process::start("session-echo-bare")?, false)?,
    ])?;
    lines.push(line("session, 64 bytes round trip", Unit::Time, &echoes, ROUND_TRIP));
    let small = bench.interleave([
        send(bench, &Process::start("session-small")?, true, 128, 500_000, 1)?,
        send(bench, &Process::start("session-small-bare")?, false, 128, 500_000, 1)?,
    ])?;
    let unit = Unit::MessagesPerSecond;
    lines.push(line("session, 128 bytes one way", unit, &small, THROUGHPUT));
    let large = bench.interleave([
        send(bench, &Process::start("session-large")?, true, BULK, 128, BULK)?,
        send(bench, &Process::start("session-large-bare")?, false, BULK, 128, BULK)?,
    ])?;
    lines.push(line("session, 1 MiB one way", Unit::BytesPerSecond, &large, THROUGHPUT));
    let calls = bench.interleave([
        calls_of(bench, &Process::start("session-calls")?, true)?,
        calls_of(bench, &Process::start("session-calls-bare")?, false)?,
    ])?;
    lines.push(line("session, JSON-RPC calls, 64 in flight", unit, &calls, THROUGHPUT));
    Ok(lines)
}

fn line(work: &str, unit: Unit, [ours, bare]: &[Vec<f64>; 2], goal: Goal) -> TableLine {
    TableLine::compared(work, "the bare channel", unit, (ours, bare), goal)
}

fn endpoint(socket: PathBuf, resumes: bool) -> Endpoint {
    let endpoint = Endpoint::unix(socket);
    match resumes {
        true => endpoint.resumable(),
        false => endpoint.with_framing(FramingKind::LengthPrefix),
    }
}

fn connect(bench: &Bench, process: &Process, resumes: bool) -> Result<BoxChannel> {
    bench.runtime.block_on(async {
        let endpoint = endpoint(process.socket(), resumes);
        let (options, session) = (Options::default(), SessionOptions::default());
        let connector = tieline_link::connector(&Registry::new(), &endpoint, &options, session)?;
        Ok(connector.connect().await?)
    })
}

fn echo<'a>(bench: &'a Bench, process: &Process, resumes: bool) -> Result<Side<'a>> {
    let (mut sender, mut receiver) = connect(bench, process, resumes)?.split();
    let ping = payload(64);
    Ok(bench.side(async move || ping_pong(&mut sender, &mut receiver, ping, TIMES).await))
}

fn send<'a>(
    bench: &'a Bench,
    process: &Process,
    resumes: bool,
    size: usize,
    messages: usize,
    each: usize,
) -> Result<Side<'a>> {
    let (mut sender, mut receiver) = connect(bench, process, resumes)?.split();
    let bytes = payload(size);
    Ok(bench.side(async move || {
        let begun = Instant::now();
        stream::send(&mut sender, bytes, messages).await?;
        message(&mut receiver).await?;
        Ok((each * messages) as f64 / begun.elapsed().as_secs_f64())
    }))
}

fn calls_of<'a>(bench: &'a Bench, process: &Process, resumes: bool) -> Result<Side<'a>> {
    let channel = connect(bench, process, resumes)?;
    let (peer, driver) = Peer::new(channel, (), PeerOptions::default());
    bench.runtime.spawn(driver);
    Ok(bench.side(async move || calls::echoes_a_second(&peer).await))
}

pub(super) async fn serve_echo(socket: PathBuf, resumes: bool) -> Result<()> {
    serve(socket, resumes, Work::Echo).await
}

pub(super) async fn serve_small(socket: PathBuf, resumes: bool) -> Result<()> {
    serve(socket, resumes, SMALL).await
}

pub(super) async fn serve_large(socket: PathBuf, resumes: bool) -> Result<()> {
    serve(socket, resumes, LARGE).await
}

pub(super) async fn serve_calls(socket: PathBuf, resumes: bool) -> Result<()> {
    serve(socket, resumes, Work::Calls).await
}

async fn serve(socket: PathBuf, resumes: bool, work: Work) -> Result<()> {
    let endpoint = endpoint(socket, resumes);
    let (options, session) = (Options::default(), SessionOptions::default());
    let mut acceptor = tieline_link::listen(&Registry::new(), &endpoint, &options, session).await?;
    announce()?;
    let channel = acceptor.accept().await?;
    if let Work::Calls = work {
        let router = Router::new().request("echo", |text: (String,), _| async move { Ok(text) });
        let (_peer, driver) = Peer::new(channel, router, PeerOptions::default());
        driver.await;
        return Ok(());
    }
    let (mut sender, mut receiver) = channel.split();
    match work {
        Work::Take(messages) => {
            while stream::receive(&mut receiver, messages).await.is_ok() {
                sender.send("all").await?;
            }
        }
        _ => {
            while let Incoming::Message(message) = receiver.recv().await {
                sender.send(message).await?;
            }
        }
    }
    Ok(())
}
