//! `tieline serve`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as Group;
use tieline_gateway::Overflow;
use tieline_proto::{FramingKind, RestartPolicy};
use tieline_rpc::Dialect;
use tieline_transport::{Endpoint, Environment, Options};

use super::endpoint::listener;
use super::line::Line;
use super::logging::Logging;
use super::processes::ProcessModels;
use super::system::Sockets;
use super::values::{
    at_least_one, dialect, directory, framing, is_unix_socket, overflow, restart_policy,
    up_to_a_day, variable, variable_name,
};
use super::web::WebServer;
use crate::names::Name;
use crate::report::Failure;

#[derive(Group)]
#[command(after_help = "\
Examples:
  tieline serve
  tieline serve --name everything -- npx -y @modelcontextprotocol/server-everything stdio
  tieline serve --listen unix:/tmp/lsp.sock --framing content-length -- pylsp
  tieline serve --listen lines+unix:/tmp/a.sock --tap messages.ndjson -- my-agent
  tieline serve --dialect mcp --restart on-failure -- my-mcp-server
  tieline serve --dialect mcp --process shared -- my-mcp-server
  tieline serve --resume=1h -- my-agent
  tieline serve --listen unix:/run/agent/a.sock --socket-group staff -- my-agent
  tieline serve --listen http://127.0.0.1:8080 -- my-agent")]
pub(crate) struct Serve {
    /// Listen as NAME, which clients use instead of an endpoint [default: the name of the script,
    /// package or program, unless there is a --listen]
    ///
    /// A name has at most 40 letters, digits, `_` and `-`. Only clients of the same user find it.
    #[arg(long, value_name = "NAME", value_parser = Name::to_serve)]
    pub(crate) name: Option<Name>,
    /// Listen on ENDPOINT; may be repeated
    #[arg(long, value_name = "ENDPOINT", value_parser = listener)]
    pub(crate) listen: Vec<Endpoint>,
    /// Framing of the program's messages: lines, content-length or length-prefix
    ///
    /// With content-length, clients of an endpoint without a framing prefix may use content-length or
    /// lines. With length-prefix, WebSocket messages pass unchanged, including empty and binary ones.
    #[arg(long, value_name = "FRAMING", default_value = "lines", value_parser = framing)]
    pub(crate) framing: FramingKind,
    /// JSON-RPC dialect of the program: strict, lsp, mcp, mcp-2025-03-26, acp or xi
    ///
    /// When the program ends, open requests are answered with an error. The recorded handshake is sent
    /// to a restarted program first. Lines that are not JSON are not sent to the client. With xi,
    /// nothing is added to the stream.
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    pub(crate) dialect: Option<Dialect>,
    /// Restart the program when it ends while its client is connected: no, on-failure or always
    ///
    /// It is restarted at most five times in ten seconds.
    #[arg(long, value_name = "POLICY", default_value = "no", value_parser = restart_policy)]
    pub(crate) restart: RestartPolicy,
    #[command(flatten)]
    pub(crate) processes: ProcessModels,
    /// Serve at most N clients at once, and refuse more
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_one)]
    #[arg(hide_short_help = true)]
    pub(crate) max_connections: usize,
    /// Policy for a client that reads too slowly: wait, drop-oldest, drop-newest or disconnect
    ///
    /// With wait, the program waits for its client. With the other policies, 256 messages are queued;
    /// after that, the oldest or the newest is dropped, or the client is disconnected. With --dialect,
    /// only notifications are dropped.
    #[arg(long, value_name = "POLICY", default_value = "wait", value_parser = overflow)]
    #[arg(hide_short_help = true)]
    pub(crate) slow_client: Overflow,
    /// Keep a disconnected client's program running for TIME so that the client can resume
    /// [default: 2m]
    ///
    /// Every client must then use a session: `tieline connect --resume`, or `resume+` before the endpoint.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "2m", value_parser = up_to_a_day)]
    pub(crate) resume: Option<Duration>,
    /// Run the program in directory DIR
    #[arg(long, value_name = "DIR", value_parser = directory())]
    pub(crate) cwd: Option<PathBuf>,
    #[command(flatten)]
    environment: Variables,
    /// Listen on tcp: endpoints, which cannot authenticate clients
    ///
    /// Anyone who can reach the port can connect: every user of this machine, and every web page in a
    /// browser. The first message of a client must be JSON.
    #[arg(long)]
    #[arg(hide_short_help = true)]
    pub(crate) allow_unauthenticated_tcp: bool,
    /// Do not answer `tieline status`
    #[arg(long)]
    #[arg(hide_short_help = true)]
    pub(crate) no_status: bool,
    #[command(flatten)]
    pub(crate) line: Line,
    #[command(flatten)]
    pub(crate) sockets: Sockets,
    /// Program and its arguments, run without a shell [default: the built-in demo agent]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    #[command(flatten)]
    pub(crate) web: WebServer,
}

/// Changes to the program's environment, which starts as a copy of tieline's own.
#[derive(Group)]
struct Variables {
    /// Set a variable in the program's environment; may be repeated
    #[arg(long, value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Remove a variable from the program's environment; may be repeated
    #[arg(long, value_name = "NAME", value_parser = variable_name)]
    #[arg(hide_short_help = true)]
    unset_env: Vec<String>,
    /// Start the program with an empty environment
    #[arg(long)]
    #[arg(hide_short_help = true)]
    clear_env: bool,
    /// Pass on only this variable of tieline's environment; may be repeated
    #[arg(long, value_name = "NAME", value_parser = variable_name)]
    #[arg(hide_short_help = true)]
    pass_env: Vec<String>,
}

impl Serve {
    /// Returns the options for listening.
    pub(crate) fn listen_options(&self, logging: &Logging) -> Result<Options, Failure> {
        let mut options = self.line.options(logging);
        // A name stands for a socket.
        let has_socket =
            self.name.is_some() || self.listen.is_empty() || self.listen.iter().any(is_unix_socket);
        self.sockets.set(&mut options, has_socket)?;
        Ok(options)
    }

    /// Returns the option or listener that admits clients without an identity, if there is one.
    pub(crate) fn anonymous(&self) -> Option<&'static str> {
        let has_tcp = self.listen.iter().any(|it| it.scheme() == "tcp");
        match self.web.admits_anybody() {
            true => Some("--allow-unauthenticated-web"),
            false => has_tcp.then_some("tcp: endpoints"),
        }
    }

    /// Returns the program's environment. Variables are first passed on, then removed, and then set. The
    /// program itself is found in tieline's own `PATH`.
    pub(crate) fn environment(&self) -> Environment {
        let Variables { env, unset_env, clear_env, pass_env } = &self.environment;
        let passed = (*clear_env || !pass_env.is_empty()).then_some(pass_env.as_slice());
        let begin = crate::children::environment(passed);
        let fewer = unset_env.iter().fold(begin, Environment::without);
        env.iter().fold(fewer, |all, (name, value)| all.with(name, value))
    }
}
