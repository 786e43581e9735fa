//! The command line.

use std::str::FromStr;

use crate::rows::ROWS;

/// The parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Bench(Options),
    /// Runs the other process of a row. This command is hidden, like those below.
    Peer {
        role: String,
        socket: String,
    },
    /// Encodes and decodes this many messages, to count instructions.
    Codec {
        messages: usize,
    },
    /// Runs a client that makes calls to a peer as lines of input say.
    CallsClient {
        kind: String,
        socket: String,
    },
    /// Answers MCP requests from stdin.
    McpProgram,
    /// Makes calls from several tasks between two ends in this process.
    CallsInMemory {
        tasks: u32,
        calls: usize,
    },
    /// Makes calls from several tasks to a peer.
    CallsOver {
        socket: String,
        tasks: u32,
        calls: usize,
    },
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    /// Whether the scheduler decides where the processes run.
    pub(crate) all_cores: bool,
    /// Whether a missed goal is a failure.
    pub(crate) check: bool,
    /// The rows to run. If this is empty, all rows are run, but a quick run skips those that take
    /// minutes.
    pub(crate) rows: Vec<String>,
}

impl Options {
    /// Returns whether the results may be written, which requires that all rows run in full.
    pub(crate) fn is_full(&self) -> bool {
        !self.quick && !self.all_cores && self.rows.is_empty()
    }
}

pub(crate) fn help() -> String {
    let mut help = String::from(
        "\
Compare tieline with the same work done without it.

Usage: cargo xtask bench [--quick] [--check] [--all-cores] [ROW…]

  --quick      fewer rounds: less than a minute in total
  --check      fail if a goal is missed
  --all-cores  let the scheduler place the processes, instead of pinning them to one core

Only a run of all rows without --quick and --all-cores writes bench/RESULTS.md. Rows:

",
    );
    for row in ROWS {
        help.push_str(&format!("  {:<13} {}\n", row.name, row.about));
    }
    help
}

/// Parses the arguments, or returns a description of the error.
pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let args: Vec<String> = args.into_iter().collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["peer", role, socket] => {
            let (role, socket) = ((*role).to_owned(), (*socket).to_owned());
            return Ok(Command::Peer { role, socket });
        }
        ["calls-client", kind, socket] => {
            let (kind, socket) = ((*kind).to_owned(), (*socket).to_owned());
            return Ok(Command::CallsClient { kind, socket });
        }
        ["mcp-program"] => return Ok(Command::McpProgram),
        ["codec", messages] => return Ok(Command::Codec { messages: number(messages)? }),
        ["calls-in-memory", tasks, calls] => {
            return Ok(Command::CallsInMemory { tasks: number(tasks)?, calls: number(calls)? });
        }
        ["calls-over", socket, tasks, calls] => {
            let (tasks, calls) = (number(tasks)?, number(calls)?);
            return Ok(Command::CallsOver { socket: (*socket).to_owned(), tasks, calls });
        }
        _ => {}
    }
    let mut options = Options::default();
    for arg in args {
        match arg.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--quick" => options.quick = true,
            "--all-cores" => options.all_cores = true,
            "--check" => options.check = true,
            name if ROWS.iter().any(|row| row.name == name) => options.rows.push(arg),
            unknown => return Err(format!("unknown row or option {unknown:?}")),
        }
    }
    Ok(Command::Bench(options))
}

fn number<N: FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("{word:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_parsed() {
        let bench = |quick, check, all_cores, rows: &[&str]| {
            let rows = rows.iter().map(|row| (*row).to_owned()).collect();
            Ok(Command::Bench(Options { quick, check, all_cores, rows }))
        };
        for (line, expected) in [
            ("", bench(false, false, false, &[])),
            ("--quick --all-cores", bench(true, false, true, &[])),
            ("echo --check connect", bench(false, true, false, &["echo", "connect"])),
            ("--quick --help", Ok(Command::Help)),
            (
                "calls-client naive a.sock",
                Ok(Command::CallsClient { kind: "naive".into(), socket: "a.sock".into() }),
            ),
            ("mcp-program", Ok(Command::McpProgram)),
            ("codec 12", Ok(Command::Codec { messages: 12 })),
            ("calls-in-memory 64 128", Ok(Command::CallsInMemory { tasks: 64, calls: 128 })),
            (
                "calls-over a.sock 1 9",
                Ok(Command::CallsOver { socket: "a.sock".into(), tasks: 1, calls: 9 }),
            ),
            (
                "peer echo-raw a.sock",
                Ok(Command::Peer { role: "echo-raw".into(), socket: "a.sock".into() }),
            ),
        ] {
            assert_eq!(parsed(line), expected, "{line}");
        }
        for line in ["--fast", "no-such-row", "peer echo-raw", "codec many", "calls-over a.sock 1"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn only_a_run_without_restrictions_is_full() {
        for (line, full) in [
            ("", true),
            ("--check", true),
            ("--quick", false),
            ("--all-cores", false),
            ("echo", false),
        ] {
            let Ok(Command::Bench(options)) = parsed(line) else { panic!("{line}") };
            assert_eq!(options.is_full(), full, "{line}");
        }
    }
}
