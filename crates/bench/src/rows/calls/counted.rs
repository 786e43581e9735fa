//! The instructions and allocations of a JSON-RPC call. Unlike times, these counts are repeatable, so
//! that they reveal small regressions in the hot path.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use tieline_proto::Lines;
use tieline_rpc::{Peer, PeerOptions};
use tieline_transport::{Channel, Connector, memory_pair};

use super::{IN_FLIGHT, PAYLOAD, in_flight, router};
use crate::compare::{Bench, Result, runtime};
use crate::peer::connector;
use crate::report::{TableLine, Unit};
use crate::running::Running;
use crate::valgrind::{self, Count, Counting};

/// The number of calls, which is a multiple of the number of tasks.
const CALLS: usize = 50 * IN_FLIGHT as usize;
const PATTERNS: [(u32, &str); 2] = [(1, "one at a time"), (IN_FLIGHT, "64 in flight")];

/// Counts the instructions of both ends, which are connected in memory.
pub(crate) fn instructions(_: &Bench) -> Result<Vec<TableLine>> {
    let lines = PATTERNS.iter().map(|(tasks, pattern)| {
        let work = format!("instructions, JSON-RPC call in memory, both ends, {pattern}");
        let each = valgrind::each(CALLS, |calls| {
            let args = ["calls-in-memory", &tasks.to_string(), &calls.to_string()];
            valgrind::count(Count::Instructions, &args)
        })?;
        Ok(TableLine::alone(work, Unit::Pieces, each, None))
    });
    lines.collect()
}

/// Counts the allocations of each end, in separate processes.
pub(crate) fn allocations(_: &Bench) -> Result<Vec<TableLine>> {
    if !valgrind::is_installed() {
        let work = "allocations, JSON-RPC call";
        return Ok(vec![TableLine::skipped(work, "valgrind is not installed")]);
    }
    let mut lines = Vec::new();
    for (tasks, pattern) in PATTERNS {
        for (end, name) in [(End::Client, "client"), (End::Server, "server")] {
            let work = format!("allocations, JSON-RPC call, {name}, {pattern}");
            let each = valgrind::each(CALLS, |calls| allocated(end, tasks, calls))?;
            lines.push(TableLine::alone(work, Unit::Average, each, None));
        }
    }
    Ok(lines)
}

/// The end whose allocations are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

fn allocated(end: End, tasks: u32, calls: usize) -> Result<u64> {
    let counting = Counting::new(Count::Allocations)?;
    let program = |this: End| match this == end {
        true => counting.command(),
        false => Ok(Command::new(std::env::current_exe()?)),
    };
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("bench.sock");
    let mut server = program(End::Server)?;
    let mut server = Running::start(server.args(["peer", "calls-tieline"]).arg(&socket))?;
    server.hear()?;
    let mut client = program(End::Client)?;
    client.arg("calls-over").arg(&socket).args([tasks.to_string(), calls.to_string()]);
    if !client.status()?.success() {
        return Err("the client of the counted calls failed".into());
    }
    server.finish()?;
    counting.total()
}

/// Runs the counted work with both ends in this process.
pub(crate) fn in_memory(tasks: u32, calls: usize) -> Result<()> {
    runtime()?.block_on(async {
        let (ours, theirs) = memory_pair();
        let (_peer, driver) = Peer::new(theirs, router(), PeerOptions::default());
        tokio::spawn(driver);
        call(ours, tasks, calls).await
    })
}

/// Runs the counted work of the client, with the server in another process.
pub(crate) fn over(socket: PathBuf, tasks: u32, calls: usize) -> Result<()> {
    runtime()?.block_on(async {
        let channel = connector(socket, Lines::default())?.connect().await?;
        call(channel, tasks, calls).await
    })
}

async fn call(channel: impl Channel, tasks: u32, calls: usize) -> Result<()> {
    let (peer, driver) = Peer::new(channel, (), PeerOptions::default());
    tokio::spawn(driver);
    let text: Arc<str> = "x".repeat(PAYLOAD).into();
    let calls_each = calls / tasks.max(1) as usize;
    in_flight(tasks, || {
        let (peer, text) = (peer.clone(), text.clone());
        async move {
            for _ in 0..calls_each {
                peer.call::<(String,)>("echo", (&*text,)).await?;
            }
            Ok(())
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_work_terminates() {
        for (tasks, _) in PATTERNS {
            in_memory(tasks, CALLS).unwrap();
        }
    }
}
