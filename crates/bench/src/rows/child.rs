//! `cat` as a child process: round trips of 64-byte lines, and a stream of 128-byte lines.

use std::process::Stdio;
use std::time::Instant;

use tieline_proto::Lines;
use tieline_transport::{
    Channel, ChannelConfig, Connector, Framed, FramedChannel, Process, ProcessConfig,
    ProcessConnection,
};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{payload, ping_pong, ping_pong_raw, stream};
use crate::compare::{Bench, Result};
use crate::report::{Goal, TableLine, Unit};

const PAYLOAD: usize = 64;
const TIMES: u32 = 1000;
const CHUNKS: usize = 200;
const MESSAGES: usize = CHUNKS * stream::LINES_A_CHUNK;

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    Ok(vec![there_and_back(bench)?, streamed(bench)?])
}

fn there_and_back(bench: &Bench) -> Result<TableLine> {
    let ping = payload(PAYLOAD);
    let (mut sender, mut receiver) = bench.runtime.block_on(cat())?.split();
    let typed = bench.side(async || ping_pong(&mut sender, &mut receiver, ping, TIMES).await);

    let line = [ping, b"\n"].concat();
    let (_child, mut stdin, mut stdout) = bench.runtime.block_on(cat_raw())?;
    let raw = bench.side(async || ping_pong_raw(&mut stdin, &mut stdout, &line, TIMES).await);

    let [typed, raw] = bench.interleave([typed, raw])?;
    let (work, goal) = ("cat, 64 bytes round trip, lines", Goal::RatioAtMost(1.15));
    Ok(TableLine::compared(work, "tokio's pipes", Unit::Time, (&typed, &raw), goal))
}

fn streamed(bench: &Bench) -> Result<TableLine> {
    let (mut sender, mut receiver) = bench.runtime.block_on(cat())?.split();
    let line = stream::line();
    let typed = bench.side(async || {
        let begun = Instant::now();
        tokio::try_join!(
            stream::send(&mut sender, line, MESSAGES),
            stream::receive(&mut receiver, MESSAGES)
        )?;
        Ok(MESSAGES as f64 / begun.elapsed().as_secs_f64())
    });

    let (_child, mut stdin, mut stdout) = bench.runtime.block_on(cat_raw())?;
    let raw = bench.side(async || {
        let begun = Instant::now();
        tokio::try_join!(
            stream::send_raw(&mut stdin, CHUNKS),
            stream::receive_raw(&mut stdout, MESSAGES)
        )?;
        Ok(MESSAGES as f64 / begun.elapsed().as_secs_f64())
    });

    let [typed, raw] = bench.interleave([typed, raw])?;
    let (work, against) = ("cat, 128 bytes streamed, lines", "tokio's pipes, 64 KiB writes");
    Ok(TableLine::compared(work, against, Unit::MessagesPerSecond, (&typed, &raw), stream::GOAL))
}

async fn cat() -> Result<FramedChannel<ProcessConnection, Lines>> {
    let config = ProcessConfig::new("cat");
    let connector = Framed::new(Process, config, Lines::default(), ChannelConfig::default())?;
    Ok(connector.connect().await?)
}

async fn cat_raw() -> Result<(Child, ChildStdin, ChildStdout)> {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("cat has no pipes".into());
    };
    Ok((child, stdin, stdout))
}
