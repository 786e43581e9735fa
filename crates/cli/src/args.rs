//! The command line: each option with its help, its parsing and its default.

#[cfg_attr(windows, path = "args/windows.rs")]
#[cfg_attr(not(windows), path = "args/unix.rs")]
mod system;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use tieline_proto::{ByteSize, DEFAULT_MAX_MESSAGE, FramingKind, RestartPolicy};
use tieline_rpc::Dialect;
use tieline_transport::{
    Address, ChannelConfig, Endpoint, Environment, Guardian, Hold, Options, StopTimeouts,
    TransportError,
};

use crate::report::Failure;
use system::System;

/// One line between two processes: whole messages over whatever lies underneath.
#[derive(Parser)]
#[command(name = "tieline", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tieline serve                                   try it, with a built-in agent
  tieline serve -- my-agent --verbose             put a program on a Unix socket
  echo '{\"id\":1}' | tieline connect unix:/run/user/1000/tieline/my-agent.sock
  tieline bridge stdio: content-length+exec:pylsp speak lines to a language server

Endpoints:
  unix:PATH  unix:@ABSTRACT  pipe:NAME (Windows)  exec:COMMAND ARG...  exec:[\"COMMAND\",\"ARG\"]  stdio:  tcp:HOST:PORT
  A framing may stand in front: lines+ (the usual), content-length+, length-prefix+

Exit status: 0 all went well, 1 something failed, 2 the command line is wrong.";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Put a stdio program on a socket; each client gets a process of its own.
    Serve(Serve),
    /// Speak to an endpoint: lines from stdin go out, messages come to stdout.
    Connect(Connect),
    /// Call a JSON-RPC method and print its result.
    Call(Call),
    /// Pump messages both ways between two endpoints, converting the framing.
    Bridge(Bridge),
    /// Ask the Claude CLI, and print its answer as it comes.
    #[cfg(unix)]
    Claude(crate::claude::Claude),
    /// The built-in JSON-RPC agent on stdio: echo, add, sleep, count, crash, flood.
    #[command(after_help = "\
Examples:
  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\",\"params\":[2,3]}' | tieline demo-agent
  tieline connect 'exec:tieline demo-agent'")]
    DemoAgent,
    /// Print a completion script for a shell.
    #[command(after_help = "\
Examples:
  tieline completions bash > ~/.local/share/bash-completion/completions/tieline
  tieline completions fish > ~/.config/fish/completions/tieline.fish")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Group)]
#[command(after_help = "\
Prints each endpoint that it listens on, one a line, on stdout; everything else goes to stderr.
SIGINT, SIGTERM and SIGHUP end it: no new client, each program gets the end of its input and what it
still says is delivered; a second signal ends everything at once. The sockets are removed.

Examples:
  tieline serve
  tieline serve -- npx -y @modelcontextprotocol/server-everything stdio
  tieline serve --listen unix:/tmp/lsp.sock --framing content-length -- pylsp
  tieline serve --listen lines+unix:/tmp/a.sock --tap said.ndjson -- my-agent
  tieline serve --dialect mcp --restart on-failure -- my-mcp-server")]
pub(crate) struct Serve {
    /// Where to listen; may be given several times [default: a socket named after the command]
    #[arg(long, value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) listen: Vec<Endpoint>,
    /// How the program frames its messages: lines, content-length or length-prefix
    #[arg(long, value_name = "FRAMING", default_value = "lines", value_parser = framing)]
    pub(crate) framing: FramingKind,
    /// What the program speaks, if that is JSON-RPC: strict, lsp, mcp, mcp-2025-03-26, acp or xi.
    /// When it ends, requests that it has not answered are answered with an error that says how;
    /// nothing is for xi
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    pub(crate) dialect: Option<Dialect>,
    /// Whether to start the program again when it ends under a client: no, on-failure or always. Five
    /// times in ten seconds at most
    #[arg(long, value_name = "POLICY", default_value = "no", value_parser = restart_policy)]
    pub(crate) restart: RestartPolicy,
    /// How many clients are served at once; more are turned away
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_one)]
    pub(crate) max_connections: usize,
    /// The program's working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    #[command(flatten)]
    environment: Variables,
    /// Listen on tcp: endpoints, although whoever reaches the port may connect: every user of the
    /// machine, and every web page in a browser
    #[arg(long)]
    pub(crate) allow_unauthenticated_tcp: bool,
    #[command(flatten)]
    pub(crate) line: Line,
    /// The program and its arguments; there is no shell [default: the built-in demo agent]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Group)]
#[command(after_help = "\
The end of stdin is passed on, and what the other side still has to say is printed before it ends.

Examples:
  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\",\"params\":[2,3]}' | tieline connect unix:/tmp/a.sock
  tieline connect 'exec:my-agent --verbose'        by hand; Ctrl-D ends the input")]
pub(crate) struct Connect {
    /// Where to connect; quote an exec: endpoint that has arguments
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) endpoint: Endpoint,
    #[command(flatten)]
    pub(crate) line: Line,
}

#[derive(Group)]
#[command(after_help = "\
The result goes to stdout, indented on a terminal and on one line elsewhere. An error that the other
side answers goes to stderr with its code, and the status is 1.

Examples:
  tieline call unix:/tmp/agent.sock add '[2,3]'
  tieline call 'exec:tieline demo-agent' count '{\"to\":3}' --follow
  tieline call unix:/tmp/agent.sock log '[\"hello\"]' --notify
  echo '{\"name\":\"x\"}' | tieline call unix:/tmp/agent.sock greet -")]
pub(crate) struct Call {
    /// Where to connect; an exec: endpoint with arguments is written in quotes
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) endpoint: Endpoint,
    /// The method
    #[arg(value_name = "METHOD")]
    pub(crate) method: String,
    /// Its parameters: a JSON array or object, or `-` to read it from stdin
    #[arg(value_name = "PARAMS", allow_hyphen_values = true)]
    pub(crate) params: Option<String>,
    /// Send it as a notification, and wait for no answer
    #[arg(long)]
    pub(crate) notify: bool,
    /// Give up after so long, like 10s or 5m [default: wait for the answer]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// What the other side speaks: strict, lsp, mcp, mcp-2025-03-26, acp or xi
    #[arg(long, value_name = "DIALECT", default_value = "strict", value_parser = dialect)]
    pub(crate) dialect: Dialect,
    /// Print notifications that come meanwhile, a line each, before the result
    #[arg(long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Group)]
#[command(after_help = "\
The first endpoint is the client's side: the end of its input is passed on to the second, and when
the second ends, all ends. Between two framings every message must be JSON.

Examples:
  tieline bridge stdio: content-length+exec:pylsp
  tieline bridge content-length+stdio: unix:/tmp/agent.sock")]
pub(crate) struct Bridge {
    /// The client's side
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) near: Endpoint,
    /// The server's side
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) far: Endpoint,
    #[command(flatten)]
    pub(crate) line: Line,
}

/// What a program's environment is. It begins as ours.
#[derive(Group)]
struct Variables {
    /// A variable of the program's environment; may be given several times
    #[arg(long, value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A variable of ours that the program does not get; may be given several times
    #[arg(long, value_name = "NAME", value_parser = variable_name)]
    unset_env: Vec<String>,
    /// The program gets no variable of ours
    #[arg(long)]
    clear_env: bool,
    /// Of our variables the program gets this one and no other; may be given several times
    #[arg(long, value_name = "NAME", value_parser = variable_name)]
    pass_env: Vec<String>,
}

impl Serve {
    /// What the program's environment is to be: first what is passed on, then what is removed, then
    /// what is set. The program itself is looked for in our own `PATH`.
    pub(crate) fn environment(&self) -> Environment {
        let Variables { env, unset_env, clear_env, pass_env } = &self.environment;
        let begin = match *clear_env || !pass_env.is_empty() {
            true => Environment::only(pass_env),
            false => Environment::default(),
        };
        let fewer = unset_env.iter().fold(begin, Environment::without);
        env.iter().fold(fewer, |all, (name, value)| all.with(name, value))
    }
}

/// What every line can be told, and where it is recorded.
#[derive(Group)]
pub(crate) struct Line {
    #[command(flatten)]
    reach: Reach,
    /// Record every message, with its time and direction, in this file as NDJSON
    #[arg(long, value_name = "FILE")]
    pub(crate) tap: Option<PathBuf>,
}

impl Line {
    pub(crate) fn options(&self) -> Options {
        self.reach.options()
    }

    pub(crate) fn is_isolated(&self) -> bool {
        self.reach.hold() == Hold::Isolated
    }

    pub(crate) fn for_programs_at(&self, endpoints: &[&Endpoint]) -> Result<(), Failure> {
        self.reach.for_programs_at(endpoints)
    }

    /// How long what is under way may be handed over: the program's time to end is not cut short.
    pub(crate) fn grace(&self) -> Duration {
        let usual = StopTimeouts::default().terminate;
        tieline_gateway::Bridge::default().grace
            + self.reach.system.stop_timeout.saturating_sub(usual)
    }
}

/// What every line can be told.
#[derive(Group)]
pub(crate) struct Reach {
    /// The largest message, like 512KiB or 64MiB
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_MAX_MESSAGE)]
    pub(crate) max_message: ByteSize,
    /// End a line whose reader has taken nothing for so long, like 10s or 5m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) stall_timeout: Duration,
    #[command(flatten)]
    system: System,
}

impl Reach {
    fn hold(&self) -> Hold {
        self.system.hold()
    }

    /// Isolation is for a program that is started here: refused where there is none.
    pub(crate) fn for_programs_at(&self, endpoints: &[&Endpoint]) -> Result<(), Failure> {
        let starts = endpoints.iter().any(|it| matches!(it.address(), Address::Exec(_)));
        if self.hold() == Hold::Isolated && !starts {
            let why =
                "--isolate is for a program that is started here, and there is no exec: endpoint";
            return Err(Failure::Usage(why.into()));
        }
        Ok(())
    }

    pub(crate) fn options(&self) -> Options {
        let mut options = Options {
            channel: ChannelConfig {
                max_message: self.max_message,
                stall_timeout: self.stall_timeout,
                ..ChannelConfig::default()
            },
            // As `main` did first of all.
            guardian: Some(Guardian::of_this_program().with_hold(self.hold())),
            stop: StopTimeouts { terminate: self.system.stop_timeout, ..StopTimeouts::default() },
            ..Options::default()
        };
        self.system.set(&mut options);
        options
    }
}

#[derive(Group)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Logging {
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// How log lines look: text for people, json for programs
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    #[arg(hide_possible_values = true)]
    pub(crate) log_format: LogFormat,
}

impl Logging {
    /// Nothing but log lines goes to stderr: no advice, no invitation.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet || self.log_format == LogFormat::Json
    }

    pub(crate) fn level(&self) -> tracing::Level {
        match (self.quiet, self.verbose) {
            (true, _) => tracing::Level::ERROR,
            (false, 0) => tracing::Level::INFO,
            (false, 1) => tracing::Level::DEBUG,
            (false, _) => tracing::Level::TRACE,
        }
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For programs, an object a line
    Json,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let explain = |error: TransportError| match error.hint() {
        Some(hint) => format!("{}; {hint}", error.kind()),
        None => error.kind().to_string(),
    };
    let endpoint: Endpoint = text.parse().map_err(explain)?;
    match endpoint.address() {
        Address::Memory(_) => Err("`mem:` is inside one process; nobody else gets there".into()),
        _ => Ok(endpoint),
    }
}

fn dialect(name: &str) -> Result<Dialect, String> {
    let found = Dialect::ALL.into_iter().find(|dialect| dialect.name == name);
    let names: Vec<_> = Dialect::ALL.iter().map(|dialect| dialect.name).collect();
    found.ok_or_else(|| format!("no such dialect; there are {}", names.join(", ")))
}

fn restart_policy(name: &str) -> Result<RestartPolicy, tieline_proto::UnknownRestartPolicy> {
    name.parse()
}

fn framing(name: &str) -> Result<FramingKind, tieline_proto::UnknownFraming> {
    name.parse()
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "not a whole number above 0".into())
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("not of the form NAME=VALUE".into()),
    }
}

fn variable_name(name: &str) -> Result<String, String> {
    match name.is_empty() || name.contains('=') {
        true => Err("not the name of a variable".into()),
        false => Ok(name.into()),
    }
}

const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn up_to_a_day(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(time) if time <= A_DAY => Ok(time),
        Ok(_) => Err("longer than a day".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn variables_are_split_at_the_first_equals_sign() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("A="), Ok(("A".into(), String::new())));
        assert!(variable("A").is_err() && variable("=b").is_err());
        assert_eq!(variable_name("A"), Ok("A".into()));
        assert!(variable_name("").is_err() && variable_name("A=b").is_err());
    }

    #[test]
    fn a_stop_may_take_a_day_and_no_longer() {
        assert_eq!(up_to_a_day("0s"), Ok(Duration::ZERO));
        assert_eq!(up_to_a_day("1day"), Ok(A_DAY));
        for bad in ["1day 1ms", "5", "-1s", "", "soon", "99999999999999999999s"] {
            assert!(up_to_a_day(bad).is_err(), "{bad}");
        }
    }
}
