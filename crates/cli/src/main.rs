//! The `tieline` program: a command-line interface to the libraries.

mod acp;
mod args;
mod call;
mod chaos;
mod children;
#[cfg(unix)]
mod claude;
mod connect;
mod demo;
mod doctor;
#[cfg(unix)]
mod limits;
mod logging;
mod lookup;
mod man;
mod mcp;
mod mcp_client;
mod memory;
mod names;
mod pretty;
mod report;
mod routes;
mod serve;
mod sessions;
#[cfg_attr(windows, path = "share/windows.rs")]
mod share;
#[cfg_attr(windows, path = "shell/windows.rs")]
#[cfg_attr(not(windows), path = "shell/unix.rs")]
mod shell;
mod signals;
mod status;
mod stderr;
mod stdin;
mod stdout;
mod terminal;
mod web;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;

use args::{Args, Command};
use report::Failure;
#[cfg(unix)]
use report::LogFormat;
#[cfg(unix)]
use tieline_transport::Address;
use tieline_transport::Guardian;

/// How long to wait at exit for stderr to be written.
const STDERR_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // This must come first: this program is started again as the guardian of each child.
    Guardian::of_this_program();
    #[cfg(unix)]
    tieline_transport::reset_inherited();
    #[cfg(unix)]
    if let Err(failure) = limits::check_stack() {
        failure.print(LogFormat::Text);
        stderr::flush(STDERR_TIMEOUT);
        return failure.status();
    }
    let (args, warnings) = Args::parse_or_exit();
    logging::start(&args.logging);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let starts_programs = !matches!(&args.command, Command::Share(share) if share.is_client());
    if starts_programs {
        adopt_orphans();
    }
    let format = args.logging.log_format;
    let status = match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(format);
            failure.status()
        }
    };
    tieline_transport::until_children_are_gone(children::KILLED_TIMEOUT);
    stderr::flush(STDERR_TIMEOUT);
    status
}

/// Makes the system reparent orphans of a killed guardian to this process, which ends them.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    if let Err(error) = tieline_transport::adopt_orphans() {
        tracing::warn!("orphans of a killed guardian will not be cleaned up: {error}");
    }
}

/// Refuses to start a command that writes to stdout if stdout was closed at start.
#[cfg(unix)]
fn check_stdout(command: &Command) -> Result<(), Failure> {
    let needs_stdout = match command {
        Command::Serve(_) | Command::Chaos(_) => false,
        Command::Call(call) => !call.notify,
        Command::Bridge(bridge) => [&bridge.near, &bridge.far]
            .iter()
            .any(|endpoint| matches!(endpoint.address(), Address::Stdio)),
        _ => true,
    };
    match needs_stdout && tieline_transport::was_started_without_stdout() {
        true => Err(Failure::other(
            "stdout is closed, so the output would be lost. Open it, or redirect it to /dev/null",
        )),
        false => Ok(()),
    }
}

fn run(args: Args) -> Result<(), Failure> {
    #[cfg(unix)]
    check_stdout(&args.command)?;
    if let Command::Doctor(doctor) = args.command {
        // Run the doctor before the limits are checked, because it reports them.
        return doctor::run(doctor);
    }
    // A server uses every core; a single line is fastest on the current thread.
    let is_client = matches!(&args.command, Command::Share(share) if share.is_client());
    let is_server = !is_client && matches!(args.command, Command::Serve(_) | Command::Share(_));
    let mut runtime = match is_server {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    #[cfg(unix)]
    limits::check(is_server)?;
    let runtime = runtime.enable_all().build()?;
    #[cfg(target_os = "linux")]
    if !is_client {
        runtime.spawn(children::reap_orphans());
    }
    let logging = &args.logging;
    match args.command {
        Command::Serve(serve) => runtime.block_on(serve::run(*serve, logging, None)),
        Command::Connect(connect) => runtime.block_on(connect::connect(connect, logging)),
        Command::Share(share) => runtime.block_on(share::run(share, logging)),
        Command::Call(call) => runtime.block_on(call::run(call, logging)),
        #[cfg(unix)]
        Command::Claude(claude) => runtime.block_on(claude::run(claude)),
        Command::Mcp(mcp) => runtime.block_on(mcp_client::run(mcp, logging)),
        Command::Bridge(bridge) => runtime.block_on(connect::bridge(bridge, logging)),
        Command::Status(status) => runtime.block_on(status::run(status)),
        Command::Chaos(chaos) => runtime.block_on(chaos::run(chaos)),
        Command::Doctor(doctor) => doctor::run(doctor),
        Command::DemoAgent => runtime.block_on(demo::run()),
        Command::Man { directory } => {
            let mut pages = man::write(Args::command(), &directory)?.join("\n");
            pages.push('\n');
            Ok(std::io::stdout().write_all(pages.as_bytes())?)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(
                shell,
                &mut args::shown(&Args::command()),
                "tieline",
                &mut script,
            );
            Ok(std::io::stdout().write_all(&script)?)
        }
    }
}
