//! The tool calls of an MCP client through `/mcp`, compared with other gateways in front of the same
//! stdio server, and with the HTTP mode of a server that has one.

mod client;
pub(crate) mod program;

use std::process::Command;
use std::time::Instant;

use tokio::task::JoinSet;

pub(super) use self::client::{Client, INITIALIZE, INITIALIZED};
use super::programs::{Listening, node, script, tieline};
use crate::compare::{Bench, Result, Side};
use crate::report::{Goal, TableLine, Unit};

/// The number of connections with one call in flight each.
const IN_FLIGHT: u32 = 64;
/// The number of calls of each connection per round.
const CALLS: u32 = 10;
/// The number of calls per round, one at a time.
const TIMES: u32 = 50;

const TIME: Goal = Goal::RatioAtMost(1.0);
const FIVE_TIMES: Goal = Goal::RatioAtLeast { bar: 5.0, aim: 5.0 };

/// A stdio server that is put behind the gateways.
#[derive(Clone, Copy)]
enum Program {
    /// The compiled one, which answers at once.
    AtOnce,
    Everything,
}

const EVERYTHING: &str = "@modelcontextprotocol/server-everything/dist/index.js";

/// The name of a gateway, the command that starts it on a port, and the goal for the calls in flight.
type Gateway = (&'static str, fn(Program, u16) -> Result<Command>, Option<Goal>);

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let at_once = [
        ("supergateway", supergateway as fn(Program, u16) -> Result<Command>, Some(FIVE_TIMES)),
        ("mcp-proxy", mcp_proxy, Some(FIVE_TIMES)),
    ];
    let everything = [
        ("its own HTTP mode", own_mode as fn(Program, u16) -> Result<Command>, None),
        ("supergateway", supergateway, None),
        ("mcp-proxy", mcp_proxy, None),
    ];
    let mut lines = compare(bench, Program::AtOnce, "compiled server", &at_once)?;
    lines.extend(compare(bench, Program::Everything, "server-everything", &everything)?);
    Ok(lines)
}

fn compare(
    bench: &Bench,
    program: Program,
    name: &str,
    gateways: &[Gateway],
) -> Result<Vec<TableLine>> {
    let mut ours = Ends::start(bench, |port| ours(program, port))?;
    let (mut theirs, mut lines) = (Vec::new(), Vec::new());
    for (gateway, command, goal) in gateways {
        match Ends::start(bench, |port| command(program, port)) {
            Ok(ends) => theirs.push((*gateway, ends, *goal)),
            Err(why) => {
                let work = format!("MCP tool call, {name}, compared with {gateway}");
                lines.push(TableLine::skipped(work, &why.to_string()));
            }
        }
    }
    let mut measure = |round: fn(&mut Ends, &Bench) -> Result<f64>| {
        let sides = theirs
            .iter_mut()
            .map(|(_, ends, _)| -> Side<'_> { Box::new(move || round(ends, bench)) });
        bench.interleave_with([Box::new(|| round(&mut ours, bench))], sides.collect())
    };
    let ([one], others_one) = measure(Ends::one)?;
    let ([many], others_many) = measure(Ends::many)?;
    for ((gateway, _, goal), (their_one, their_many)) in
        theirs.iter().zip(others_one.iter().zip(&others_many))
    {
        lines.push(TableLine::compared(
            format!("MCP tool call, {name}, one at a time"),
            gateway,
            Unit::Time,
            (&one, their_one),
            TIME,
        ));
        lines.push(TableLine::compared(
            format!("MCP tool calls, {name}, {IN_FLIGHT} in flight"),
            gateway,
            Unit::MessagesPerSecond,
            (&many, their_many),
            *goal,
        ));
    }
    Ok(lines)
}

/// A running gateway, and the connections of one session.
struct Ends {
    _process: Listening,
    connections: Vec<Client>,
}

impl Ends {
    fn start(bench: &Bench, command: impl FnOnce(u16) -> Result<Command>) -> Result<Self> {
        let process = Listening::start(command)?;
        let connections = bench.runtime.block_on(async {
            let first = Client::initialize(process.port).await?;
            let mut connections = Vec::new();
            for _ in 1..IN_FLIGHT {
                connections.push(first.another().await?);
            }
            connections.push(first);
            Ok::<_, crate::compare::Error>(connections)
        })?;
        Ok(Self { _process: process, connections })
    }

    /// Returns the duration of one call in seconds.
    fn one(&mut self, bench: &Bench) -> Result<f64> {
        let client = self.connections.first_mut().ok_or("no connection")?;
        bench.runtime.block_on(async {
            let begun = Instant::now();
            for _ in 0..TIMES {
                client.call(0).await?;
            }
            Ok(begun.elapsed().as_secs_f64() / f64::from(TIMES))
        })
    }

    /// Returns the number of calls per second.
    fn many(&mut self, bench: &Bench) -> Result<f64> {
        let connections = std::mem::take(&mut self.connections);
        let (done, seconds) = bench.runtime.block_on(async {
            let begun = Instant::now();
            let mut tasks = JoinSet::new();
            for (mut client, ids) in connections.into_iter().zip(0..) {
                tasks.spawn(async move {
                    for _ in 0..CALLS {
                        client.call(ids).await?;
                    }
                    Ok(client)
                });
            }
            (tasks.join_all().await, begun.elapsed().as_secs_f64())
        });
        self.connections = done.into_iter().collect::<Result<_>>()?;
        Ok(f64::from(IN_FLIGHT * CALLS) / seconds)
    }
}

/// Returns the arguments of the command line of a program.
fn command_line(program: Program) -> Result<Vec<std::ffi::OsString>> {
    Ok(match program {
        Program::AtOnce => vec![std::env::current_exe()?.into(), "mcp-program".into()],
        Program::Everything => vec![node()?, script(EVERYTHING)?.into(), "stdio".into()],
    })
}

fn ours(program: Program, port: u16) -> Result<Command> {
    let mut command = tieline()?;
    command.args(["serve", "--quiet", "--no-status", "--allow-unauthenticated-web", "--listen"]);
    command.arg(format!("http://127.0.0.1:{port}")).arg("--").args(command_line(program)?);
    Ok(command)
}

fn supergateway(program: Program, port: u16) -> Result<Command> {
    let words = command_line(program)?;
    let line: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let mut command = Command::new(node()?);
    command.arg(script("supergateway/dist/index.js")?).args(["--stdio", &line.join(" ")]);
    command.args(["--stateful", "--outputTransport", "streamableHttp", "--logLevel", "none"]);
    command.args(["--port", &port.to_string()]);
    Ok(command)
}

fn mcp_proxy(program: Program, port: u16) -> Result<Command> {
    let mut command = Command::new(node()?);
    command.arg(script(".bin/mcp-proxy")?).args(["--host", "127.0.0.1"]);
    command.args(["--port", &port.to_string(), "--"]).args(command_line(program)?);
    Ok(command)
}

fn own_mode(_: Program, port: u16) -> Result<Command> {
    let mut command = Command::new(node()?);
    command.arg(script(EVERYTHING)?).arg("streamableHttp").env("PORT", port.to_string());
    Ok(command)
}
