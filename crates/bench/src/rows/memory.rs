//! What a server's memory grows by for each connection that was used and is idle now.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::task::Poll;

use tieline_proto::Lines;
use tieline_transport::{Acceptor, Channel, Incoming, Receiver, Sender, SenderExt};

use super::echo::FRAME;
use crate::compare::{Bench, Result, Side};
use crate::machine;
use crate::peer::{Peer, listen};
use crate::report::{Goal, Line, Unit};

const GOAL: Goal = Goal::AtMost(16.0 * 1024.0, Unit::Bytes);

/// What each connection did before it fell silent: this many lines at once, all echoed.
const PATTERNS: [(&str, usize); 2] = [("one 64-byte line", 1), ("300 lines at once", 300)];

pub(super) fn run(bench: &Bench) -> Result<Vec<Line>> {
    if machine::resident(std::process::id()).is_none() {
        return Ok(vec![Line::skipped("Unix memory, idle", "the system does not tell it")]);
    }
    let spared = 100;
    let within = machine::descriptor_limit().map_or(usize::MAX, |it| it.saturating_sub(spared));
    let connections = if bench.quick { 500 } else { 4000 }.min(within);
    PATTERNS.iter().map(|pattern| measure(bench, connections, *pattern)).collect()
}

fn measure(bench: &Bench, connections: usize, (used_for, lines): (&str, usize)) -> Result<Line> {
    let side =
        |role: &'static str| -> Side<'_> { Box::new(move || growth(role, connections, lines)) };
    let [typed, raw] = bench.interleave([side("memory-typed"), side("echo-raw")])?;
    let work = format!("Unix memory, each of {connections} idle after {used_for}");
    Ok(Line::compared(work, "raw tokio task", Unit::Bytes, (&typed, &raw), GOAL))
}

/// Each round has a server of its own, with an untouched heap.
fn growth(role: &str, connections: usize, lines: usize) -> Result<f64> {
    let peer = Peer::start(role)?;
    let resident = || machine::resident(peer.pid()).ok_or("the peer has ended");
    let _first = used(&peer, lines)?;
    let before = resident()?;
    let held = (0..connections).map(|_| used(&peer, lines)).collect::<Result<Vec<_>>>()?;
    let after = resident()?;
    Ok((after as f64 - before as f64) / held.len() as f64)
}

/// A connection that has carried something.
fn used(peer: &Peer, lines: usize) -> Result<UnixStream> {
    let line = [&[b'x'; FRAME - 1], &b"\n"[..]].concat();
    let burst = line.repeat(lines);
    let mut stream = UnixStream::connect(peer.socket())?;
    stream.write_all(&burst)?;
    let mut echoed = vec![0; burst.len()];
    stream.read_exact(&mut echoed)?;
    Ok(stream)
}

pub(super) async fn serve_typed(socket: PathBuf) -> Result<()> {
    let mut acceptor = listen(socket, Lines::default()).await?;
    loop {
        tokio::spawn(echo(acceptor.accept().await?));
    }
}

/// What came together is answered together, as a server does that means well.
async fn echo(channel: impl Channel) -> Result<()> {
    let (mut sender, mut receiver) = channel.split();
    loop {
        let incoming = poll_fn(|cx| match receiver.poll_recv(cx) {
            Poll::Ready(incoming) => Poll::Ready(Ok(incoming)),
            Poll::Pending => match sender.poll_flush(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            },
        });
        let Incoming::Message(message) = incoming.await? else { return Ok(()) };
        sender.feed(message).await?;
    }
}
