//! Other RPC libraries, with both ends in processes of `fixtures/peers`. These processes measure the
//! rounds themselves; this module only starts them and sends them commands.

use std::process::Command;

use tempfile::TempDir;

use super::{CALLS_EACH, IN_FLIGHT, ONE_AT_A_TIME};
use crate::compare::{RUNTIME, Result, Side};
use crate::report::Goal;
use crate::running::Running;

/// The environment variable that contains the path of the fixture's program.
const PROGRAM: &str = "TIELINE_PEERS";

/// A library with which tieline is compared.
pub(super) struct Library {
    name: &'static str,
    pub(super) against: &'static str,
    /// How many times faster tieline should be with 64 calls in flight. There is no such aim for calls
    /// made one at a time, which are already near the limit.
    aim: f64,
}

pub(super) const LIBRARIES: [Library; 3] = [
    Library { name: "tarpc", against: "tarpc, JSON over a Unix socket", aim: 8.0 },
    Library { name: "jsonrpsee", against: "jsonrpsee, WebSocket on loopback", aim: 10.0 },
    Library { name: "rmcp", against: "rmcp, a tool over a Unix socket", aim: 15.0 },
];

/// The row fails if tieline is slower than one of them.
const BAR: f64 = 1.0;

impl Library {
    pub(super) fn goal_of_one(&self) -> Goal {
        Goal::RatioAtMost(BAR)
    }

    pub(super) fn goal_of_many(&self) -> Goal {
        Goal::RatioAtLeast { bar: BAR, aim: self.aim }
    }

    /// Starts both ends and waits until they are connected.
    pub(super) fn start(&self) -> Result<Ends> {
        Ends::start(self.name)
    }
}

/// A server of a library in another process.
pub(in crate::rows) struct Server {
    process: Running,
    address: String,
    _directory: TempDir,
}

impl Server {
    /// Starts the server and waits until it is listening.
    pub(in crate::rows) fn start(library: &str) -> Result<Self> {
        Self::start_on(library, "")
    }

    fn start_on(library: &str, runtime: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("bench.sock");
        let mut command = program()?;
        command.args(["serve", library]).arg(socket).env(RUNTIME, runtime);
        let mut process = Running::start(&mut command)?;
        let address = process.hear()?;
        Ok(Self { process, address, _directory: directory })
    }

    pub(in crate::rows) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the address for clients.
    pub(in crate::rows) fn address(&self) -> &str {
        &self.address
    }
}

fn program() -> Result<Command> {
    let program =
        std::env::var_os(PROGRAM).ok_or("fixtures/peers is not built: run `cargo xtask bench`")?;
    Ok(Command::new(program))
}

/// Both ends of a connection that a library makes.
pub(in crate::rows) struct Ends {
    client: Running,
    _server: Server,
}

impl Ends {
    pub(in crate::rows) fn start(library: &str) -> Result<Self> {
        Self::start_on(library, "")
    }

    /// Starts both ends on a runtime, as a value of the variable that selects it.
    pub(in crate::rows) fn start_on(library: &str, runtime: &str) -> Result<Self> {
        let server = Server::start_on(library, runtime)?;
        let mut command = program()?;
        command.args(["client", library, server.address()]).env(RUNTIME, runtime);
        let mut client = Running::start(&mut command)?;
        match client.hear()?.as_str() {
            "ready" => Ok(Self { client, _server: server }),
            other => Err(format!("unexpected line from the client of {library}: {other:?}").into()),
        }
    }

    /// Returns a side whose rounds are sequential calls, in seconds per call.
    pub(super) fn one(&mut self) -> Side<'_> {
        let command = format!("one {ONE_AT_A_TIME}");
        Box::new(move || Ok(self.seconds(&command)? / f64::from(ONE_AT_A_TIME)))
    }

    /// Returns a side whose rounds are concurrent calls, in calls per second.
    pub(super) fn many(&mut self) -> Side<'_> {
        let command = format!("many {IN_FLIGHT} {CALLS_EACH}");
        Box::new(move || Ok(f64::from(IN_FLIGHT * CALLS_EACH) / self.seconds(&command)?))
    }

    /// Runs a command and returns the seconds that it took.
    pub(in crate::rows) fn seconds(&mut self, command: &str) -> Result<f64> {
        self.client.say(command)?;
        let answer = self.client.hear()?;
        answer.parse().map_err(|_| answer.into())
    }
}
