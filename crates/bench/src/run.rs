//! Runs the command line and prints the table.

use std::fs;
use std::process::ExitCode;

use crate::compare::{Bench, Result, runtime};
use crate::matrix::Matrix;
use crate::options::{Command, Options, help, parse};
use crate::pin::Pinned;
use crate::report::{TableLine, Verdict, table};
use crate::rows::calls::counted;
use crate::rows::{self, ROWS, Row, Run};
use crate::workspace::workspace_root;
use crate::{machine, peer};

pub(crate) fn main() -> ExitCode {
    let command = match parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(why) => {
            eprintln!("tieline-bench: {why}\n\n{}", help());
            return ExitCode::from(2);
        }
    };
    match run(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tieline-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Help => print!("{}", help()),
        Command::Peer { role, socket } => {
            let role = rows::role(&role).ok_or_else(|| format!("unknown role {role:?}"))?;
            peer::run(role, socket.into())?;
        }
        Command::Codec { messages } => rows::codec::work(messages)?,
        Command::CallsClient { kind, socket } => rows::calls::client::run(&kind, socket.into())?,
        Command::McpProgram => rows::mcp::program::serve()?,
        Command::CallsInMemory { tasks, calls } => counted::in_memory(tasks, calls)?,
        Command::CallsOver { socket, tasks, calls } => {
            counted::over(socket.into(), tasks, calls)?;
        }
        Command::Bench(options) => return bench(&options),
    }
    Ok(ExitCode::SUCCESS)
}

fn bench(options: &Options) -> Result<ExitCode> {
    let bench = Bench { runtime: runtime()?, quick: options.quick };
    let mut text = head(&bench, options);
    let (mut lines, mut matrices) = (Vec::new(), Vec::new());
    let mut has_failed = false;
    for row in ROWS.iter().filter(|row| is_wanted(row, options)) {
        eprintln!("measuring: {}", row.name);
        let is_pinned = row.on_one_core && !options.all_cores;
        let _pinned = is_pinned.then(Pinned::to_one_core).transpose()?;
        // If a row cannot be measured here, the other rows are measured nevertheless.
        let measured = match row.run {
            Run::Lines(run) => run(&bench).map(|it| lines.extend(it)),
            Run::Matrix(run) => run(&bench).map(|it| matrices.push(it)),
        };
        if let Err(error) = measured {
            eprintln!("tieline-bench: {}: {error}", row.name);
            has_failed = true;
            lines.push(TableLine::skipped(row.name, &error.to_string()));
        }
    }
    text.push_str(&table(&lines));
    for matrix in &matrices {
        text.push('\n');
        text.push_str(&matrix.section());
    }
    print!("{text}");
    if options.is_full() {
        let folder = workspace_root()?.join("bench");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("RESULTS.md"), text)?;
    }
    let missed = lines.iter().any(|line| line.verdict() == Verdict::Missed)
        || matrices.iter().any(Matrix::has_missed);
    let is_bad = has_failed || (missed && options.check);
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn is_wanted(row: &Row, options: &Options) -> bool {
    if options.rows.is_empty() {
        return !(row.takes_minutes && options.quick);
    }
    options.rows.iter().any(|name| name == row.name)
}

fn head(bench: &Bench, options: &Options) -> String {
    let cores = if options.all_cores {
        "placed on any core by the scheduler"
    } else {
        "pinned to the same core, so that the figures compare the work of both ends and not how \
         fast the machine wakes an idle core"
    };
    format!(
        "# Benchmarks

`cargo xtask bench` wrote this file. Compare the ratios: the two sides of a row take turns within \
the same run, each of {} rounds yields one ratio, and the table has the median of these with its \
quartiles. The absolute figures are medians, too, and depend on the machine. Every process on \
every side runs tokio's current-thread runtime. The two ends of a line are separate processes, \
{cores}. Everything is built with the profile `dist` (fat LTO), like the released program, and \
tieline runs with its defaults.

Machine: {}

",
        bench.rounds(),
        machine::facts(),
    )
}
