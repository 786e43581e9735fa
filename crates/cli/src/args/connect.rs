//! `tieline connect` and `tieline bridge`.

use clap::Args as Group;
use tieline_rpc::Dialect;
use tieline_transport::Endpoint;

use super::line::Line;
use super::values::{dialect, endpoint};
use super::web::WebClient;

#[derive(Group)]
#[command(after_help = "\
The end of stdin is passed on, and what the other side still has to say is printed before it ends.

Examples:
  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\",\"params\":[2,3]}' | tieline connect unix:/tmp/a.sock
  tieline connect 'exec:my-agent --verbose'        by hand; Ctrl-D ends the input
  tieline connect --resume unix:/tmp/a.sock        the same as resume+unix:/tmp/a.sock
  TIELINE_TOKEN=... tieline connect http://127.0.0.1:8080/sse")]
pub(crate) struct Connect {
    /// Where to connect; quote an exec: endpoint that has arguments
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) endpoint: Endpoint,
    /// Speak in a session, which survives its connection: nothing is lost or doubled when that breaks.
    /// The other side is `tieline serve --resume`
    #[arg(long)]
    pub(crate) resume: bool,
    /// What is spoken over the line, if that is JSON-RPC: strict, lsp, mcp, mcp-2025-03-26, acp or xi.
    /// Requests without an answer are answered with an error, and a new program after a lost
    /// session gets the recorded handshake first
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    pub(crate) dialect: Option<Dialect>,
    #[command(flatten)]
    pub(crate) screen: Screen,
    #[command(flatten)]
    pub(crate) line: Line,
    #[command(flatten)]
    pub(crate) web: WebClient,
}

/// What a terminal gets.
#[derive(Clone, Copy, Group)]
pub(crate) struct Screen {
    /// Write messages to a terminal as they are. By default control characters in them are escaped, so
    /// that a program cannot move the cursor, change the title or hide text. Output that is not a
    /// terminal is never changed
    #[arg(long)]
    pub(crate) raw: bool,
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
    /// What is spoken over the line, if that is JSON-RPC: strict, lsp, mcp, mcp-2025-03-26, acp or xi.
    /// Requests without an answer are answered with an error, and a new program after a lost
    /// session gets the recorded handshake first
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    pub(crate) dialect: Option<Dialect>,
    #[command(flatten)]
    pub(crate) screen: Screen,
    #[command(flatten)]
    pub(crate) line: Line,
    #[command(flatten)]
    pub(crate) web: WebClient,
}
