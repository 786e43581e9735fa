//! The memory that a server needs for each connection that was used and is now idle.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use tieline_proto::Lines;
use tieline_transport::Acceptor;

use super::echo::FRAME;
use super::idle::{self, echo, growth};
use crate::compare::{Bench, Result, Side};
use crate::peer::{Peer, listen};
use crate::report::{Goal, TableLine, Unit};

const GOAL: Goal = Goal::AtMost(16.0 * 1024.0, Unit::Bytes);

/// The number of lines that each connection sends at once, and receives back, before it becomes idle.
const PATTERNS: [(&str, usize); 2] = [("one 64-byte line", 1), ("300 lines at once", 300)];

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let Some(connections) = idle::connections(bench, 4000) else {
        return Ok(vec![TableLine::skipped("Unix memory, idle", "the system does not report it")]);
    };
    PATTERNS.iter().map(|pattern| measure(bench, connections, *pattern)).collect()
}

fn measure(
    bench: &Bench,
    connections: usize,
    (used_for, lines): (&str, usize),
) -> Result<TableLine> {
    let side = |role: &'static str| -> Side<'_> {
        Box::new(move || {
            let peer = Peer::start(role)?;
            growth(peer.pid(), connections, || used(&peer, lines))
        })
    };
    let [typed, raw] = bench.interleave([side("memory-typed"), side("echo-raw")])?;
    let work = format!("Unix memory, each of {connections} idle after {used_for}");
    Ok(TableLine::compared(work, "raw tokio task", Unit::Bytes, (&typed, &raw), GOAL))
}

/// Returns a connection that has carried messages.
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
