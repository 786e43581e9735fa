//! Other libraries for calls, both ends of each in processes of `fixtures/peers`. They say what a
//! round took; here they are only started and told to begin.

use std::process::Command;

use tempfile::TempDir;

use super::{CALLS_EACH, IN_FLIGHT, ONE_AT_A_TIME};
use crate::compare::{Result, Side};
use crate::report::Goal;
use crate::running::Running;

/// Tells where the program of the fixture is.
const PROGRAM: &str = "TIELINE_PEERS";

/// A library, and how much faster than it tieline is to be.
pub(super) struct Library {
    name: &'static str,
    pub(super) against: &'static str,
    /// With 64 calls in flight. One at a time there is nothing to aim at: the limit is near.
    aim: f64,
}

pub(super) const LIBRARIES: [Library; 3] = [
    Library { name: "tarpc", against: "tarpc, JSON over a Unix socket", aim: 8.0 },
    Library { name: "jsonrpsee", against: "jsonrpsee, WebSocket on loopback", aim: 10.0 },
    Library { name: "rmcp", against: "rmcp, a tool over a Unix socket", aim: 15.0 },
];

/// Being slower than one of them is a failure.
const BAR: f64 = 1.0;

impl Library {
    pub(super) fn goal_of_one(&self) -> Goal {
        Goal::RatioAtMost(BAR)
    }

    pub(super) fn goal_of_many(&self) -> Goal {
        Goal::RatioAtLeast { bar: BAR, aim: self.aim }
    }

    /// Starts both ends, which are connected when this returns.
    pub(super) fn start(&self) -> Result<Ends> {
        Ends::start(self.name)
    }
}

/// A server of a library, in a process of its own.
pub(in crate::rows) struct Server {
    process: Running,
    address: String,
    _directory: TempDir,
}

impl Server {
    /// It listens when this returns.
    pub(in crate::rows) fn start(library: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("bench.sock");
        let mut process = Running::start(program()?.args(["serve", library]).arg(socket))?;
        let address = process.hear()?;
        Ok(Self { process, address, _directory: directory })
    }

    pub(in crate::rows) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it is reached.
    pub(in crate::rows) fn address(&self) -> &str {
        &self.address
    }
}

fn program() -> Result<Command> {
    let program = std::env::var_os(PROGRAM)
        .ok_or("fixtures/peers is not built, which `cargo xtask bench` does")?;
    Ok(Command::new(program))
}

/// Both ends of a line of a library.
pub(in crate::rows) struct Ends {
    client: Running,
    _server: Server,
}

impl Ends {
    pub(in crate::rows) fn start(library: &str) -> Result<Self> {
        let server = Server::start(library)?;
        let mut client = Running::start(program()?.args(["client", library, server.address()]))?;
        match client.hear()?.as_str() {
            "ready" => Ok(Self { client, _server: server }),
            other => Err(format!("the client of {library} says {other:?}").into()),
        }
    }

    /// Rounds of calls one after the other: seconds for one.
    pub(super) fn one(&mut self) -> Side<'_> {
        let command = format!("one {ONE_AT_A_TIME}");
        Box::new(move || Ok(self.seconds(&command)? / f64::from(ONE_AT_A_TIME)))
    }

    /// Rounds of calls of many tasks at once: calls a second.
    pub(super) fn many(&mut self) -> Side<'_> {
        let command = format!("many {IN_FLIGHT} {CALLS_EACH}");
        Box::new(move || Ok(f64::from(IN_FLIGHT * CALLS_EACH) / self.seconds(&command)?))
    }

    /// What a command took.
    pub(in crate::rows) fn seconds(&mut self, command: &str) -> Result<f64> {
        self.client.say(command)?;
        let answer = self.client.hear()?;
        answer.parse().map_err(|_| answer.into())
    }
}
