//! JSON-RPC calls over a Unix socket on both of Tokio's runtimes, with the two processes on one core and
//! on any, compared with two manual implementations and other libraries.

use std::process::Command;

use super::calls::libraries;
use crate::compare::{Bench, MULTI_THREAD, RUNTIME, Result, Side};
use crate::matrix::{Matrix, MatrixRow};
use crate::peer::Peer;
use crate::pin::Pinned;
use crate::report::Goal;
use crate::running::Running;

const ALTERNATIVES: [&str; 4] =
    ["a careful loop by hand", "a simple loop by hand", "tarpc", "jsonrpsee (WebSocket)"];

/// Calls that are made in each round.
struct Work {
    in_flight: u32,
    /// The number of calls of each task.
    calls: u32,
    payload: usize,
}

const fn work(in_flight: u32, calls: u32, payload: usize) -> Work {
    Work { in_flight, calls, payload }
}

const KIB: usize = 1024;
const WORK: [Work; 7] = [
    work(1, 2000, 64),
    work(8, 500, 64),
    work(64, 200, 64),
    work(512, 40, 64),
    work(64, 100, KIB),
    work(64, 20, 16 * KIB),
    work(8, 4, KIB * KIB),
];

impl Work {
    fn command(&self) -> String {
        format!("many {} {} {}", self.in_flight, self.calls, self.payload)
    }

    fn calls(&self) -> f64 {
        f64::from(self.in_flight * self.calls)
    }

    /// Returns the goal for the ratio to an alternative, on processes that may run on any core.
    fn goal(&self, alternative: usize) -> Option<Goal> {
        let bar = match (self.payload, self.in_flight, alternative) {
            (64, 1, 0) => 0.95,
            (64, 64, 0) => 1.5,
            (64, _, 0) | (64, 1, 2) => 1.0,
            (payload, 64, 0) if payload == 16 * KIB => 1.0,
            _ => return None,
        };
        Some(Goal::RatioAtLeast { bar, aim: bar })
    }
}

pub(super) fn run(bench: &Bench) -> Result<Matrix> {
    let mut rows = Vec::new();
    for (runtime, threads) in [("", "current-thread"), (MULTI_THREAD, "multi-thread")] {
        for is_pinned in [false, true] {
            let _pinned = is_pinned.then(Pinned::to_one_core).transpose()?;
            let cores = if is_pinned { "one core" } else { "any core" };
            let title = format!("{threads}, {cores}");
            rows.extend(measure(bench, runtime, &title, !is_pinned)?);
        }
    }
    Ok(Matrix {
        title: "JSON-RPC calls over a Unix socket",
        alternatives: ALTERNATIVES.map(str::to_owned).to_vec(),
        rows,
    })
}

fn measure(bench: &Bench, runtime: &str, title: &str, has_goals: bool) -> Result<Vec<MatrixRow>> {
    let mut ours = Ends::ours("tieline", runtime)?;
    let mut theirs = [
        Ends::ours("careful", runtime),
        Ends::ours("by-hand", runtime),
        Ends::library("tarpc", runtime),
        Ends::library("jsonrpsee", runtime),
    ]
    .into_iter()
    .map(|ends| ends.inspect_err(|why| eprintln!("tieline-bench: runtimes: {why}")).ok())
    .collect::<Vec<_>>();
    let mut rows = Vec::new();
    for work in WORK {
        let others = theirs.iter_mut().flatten().map(|ends| ends.side(&work)).collect();
        let ([ours], others) = bench.interleave_with([ours.side(&work)], others)?;
        let mut others = others.into_iter();
        let theirs = theirs.iter().enumerate().map(|(number, ends)| {
            let figures = ends.as_ref().and_then(|_| others.next()).unwrap_or_default();
            (figures, work.goal(number).filter(|_| has_goals))
        });
        let size = match work.payload {
            64 => "64 bytes".to_owned(),
            bytes if bytes < KIB * KIB => format!("{} KiB", bytes / KIB),
            _ => "1 MiB".to_owned(),
        };
        let theirs = theirs.collect();
        rows.push(MatrixRow {
            work: format!("{title}, {size}, {} in flight", work.in_flight),
            ours,
            theirs,
        });
    }
    Ok(rows)
}

/// A client in a process of its own, and its server.
enum Ends {
    Ours { client: Running, _server: Peer },
    Library(libraries::Ends),
}

impl Ends {
    fn ours(kind: &str, runtime: &str) -> Result<Self> {
        let server = Peer::start_on(&format!("calls-{kind}"), runtime)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["calls-client", kind]).arg(server.socket()).env(RUNTIME, runtime);
        let mut client = Running::start(&mut command)?;
        client.hear()?;
        Ok(Self::Ours { client, _server: server })
    }

    fn library(name: &str, runtime: &str) -> Result<Self> {
        libraries::Ends::start_on(name, runtime).map(Self::Library)
    }

    /// Returns a side whose figure is the number of calls per second.
    fn side<'a>(&'a mut self, work: &'a Work) -> Side<'a> {
        let command = work.command();
        Box::new(move || Ok(work.calls() / self.seconds(&command)?))
    }

    fn seconds(&mut self, command: &str) -> Result<f64> {
        match self {
            Self::Ours { client, .. } => {
                client.say(command)?;
                let answer = client.hear()?;
                answer.parse().map_err(|_| answer.into())
            }
            Self::Library(ends) => ends.seconds(command),
        }
    }
}
