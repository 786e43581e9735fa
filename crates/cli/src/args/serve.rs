//! `tieline serve`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as Group;
use tieline_gateway::Overflow;
use tieline_proto::{FramingKind, RestartPolicy};
use tieline_rpc::Dialect;
use tieline_transport::{Endpoint, Environment, Options};

use super::line::Line;
use super::system::Sockets;
use super::values::{
    at_least_one, dialect, endpoint, framing, is_unix_socket, overflow, restart_policy,
    up_to_a_day, variable, variable_name,
};
use super::web::WebServer;
use crate::report::Failure;

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
  tieline serve --dialect mcp --restart on-failure -- my-mcp-server
  tieline serve --resume=1h -- my-agent
  tieline serve --listen unix:/run/agent/a.sock --socket-group staff -- my-agent
  tieline serve --listen http://127.0.0.1:8080 -- my-agent")]
pub(crate) struct Serve {
    /// Where to listen; may be given several times [default: a socket named after the command]
    #[arg(long, value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) listen: Vec<Endpoint>,
    /// How the program frames its messages: lines, content-length or length-prefix. With content-length, a
    /// client at an endpoint without a framing may speak that or lines; with length-prefix, WebSocket
    /// messages pass unchanged, empty and binary ones included
    #[arg(long, value_name = "FRAMING", default_value = "lines", value_parser = framing)]
    pub(crate) framing: FramingKind,
    /// What the program speaks, if that is JSON-RPC: strict, lsp, mcp, mcp-2025-03-26, acp or xi.
    /// Requests without an answer are answered with an error, a program that is started again gets the
    /// recorded handshake first, and lines that are not JSON do not reach the client. For xi nothing
    /// is put into the stream
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    pub(crate) dialect: Option<Dialect>,
    /// Whether to start the program again when it ends under a client: no, on-failure or always. Five
    /// times in ten seconds at most
    #[arg(long, value_name = "POLICY", default_value = "no", value_parser = restart_policy)]
    pub(crate) restart: RestartPolicy,
    /// How many clients are served at once; more are turned away
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_one)]
    pub(crate) max_connections: usize,
    /// What becomes of what the program says when its client does not take it: the program waits (wait),
    /// or 256 messages wait for the client and then some are lost (drop-oldest, drop-newest; of
    /// JSON-RPC, with --dialect, only notifications) or the client is disconnected (disconnect)
    #[arg(long, value_name = "POLICY", default_value = "wait", value_parser = overflow)]
    pub(crate) slow_client: Overflow,
    /// Every client is to speak in a session, which survives its connection: `connect --resume`, or
    /// `resume+` in front of the endpoint. One that is gone is waited for so long, with its program
    /// running [default: 2m]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "2m", value_parser = up_to_a_day)]
    pub(crate) resume: Option<Duration>,
    /// The program's working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    #[command(flatten)]
    environment: Variables,
    /// Listen on tcp: endpoints, although whoever reaches the port may connect: every user of the
    /// machine, and every web page in a browser. The first message of a client must be JSON
    #[arg(long)]
    pub(crate) allow_unauthenticated_tcp: bool,
    /// Do not answer `tieline status`
    #[arg(long)]
    pub(crate) no_status: bool,
    #[command(flatten)]
    pub(crate) line: Line,
    #[command(flatten)]
    pub(crate) sockets: Sockets,
    /// The program and its arguments; there is no shell [default: the built-in demo agent]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    #[command(flatten)]
    pub(crate) web: WebServer,
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
    /// How the program's clients are let in.
    pub(crate) fn listen_options(&self) -> Result<Options, Failure> {
        let mut options = self.line.options();
        // Without an endpoint, it is a socket with a name of its own.
        let has_socket = self.listen.is_empty() || self.listen.iter().any(is_unix_socket);
        self.sockets.set(&mut options, has_socket)?;
        Ok(options)
    }

    /// What the program's environment is to be: first what is passed on, then what is removed, then
    /// what is set. The program itself is looked for in our own `PATH`.
    pub(crate) fn environment(&self) -> Environment {
        let Variables { env, unset_env, clear_env, pass_env } = &self.environment;
        let passed = (*clear_env || !pass_env.is_empty()).then_some(pass_env.as_slice());
        let begin = crate::children::environment(passed);
        let fewer = unset_env.iter().fold(begin, Environment::without);
        env.iter().fold(fewer, |all, (name, value)| all.with(name, value))
    }
}
