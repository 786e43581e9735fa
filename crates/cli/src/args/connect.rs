//! `tieline connect` and `tieline bridge`.

use clap::Args as Group;
use tieline_rpc::Dialect;
use tieline_transport::Endpoint;

use super::endpoint::endpoint;
use super::line::Line;
use super::values::dialect;
use super::web::WebClient;

#[derive(Group)]
#[command(after_help = "\
Examples:
  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\",\"params\":[2,3]}' | tieline connect unix:/tmp/a.sock
  tieline connect my-agent                         the server started with --name my-agent
  tieline connect 'exec:my-agent --verbose'        interactive; Ctrl-D ends the input
  tieline connect --resume unix:/tmp/a.sock        the same as resume+unix:/tmp/a.sock
  TIELINE_TOKEN=... tieline connect http://127.0.0.1:8080/sse
  TIELINE_TOKEN=... tieline connect https://example.org/mcp    a server that speaks MCP over HTTP")]
pub(crate) struct Connect {
    /// Endpoint or name of a server; quote an exec: endpoint that has arguments
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) endpoint: Endpoint,
    /// Use a session, which survives a lost connection without losing or repeating messages
    ///
    /// The other side must be `tieline serve --resume`.
    #[arg(long)]
    pub(crate) resume: bool,
    /// JSON-RPC dialect of the line: strict, lsp, mcp, mcp-2025-03-26, acp or xi
    ///
    /// When the line ends, open requests are answered with an error. When a lost session is replaced by a
    /// new one, the recorded handshake is sent to the new program first.
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    pub(crate) dialect: Option<Dialect>,
    #[command(flatten)]
    pub(crate) screen: Screen,
    #[command(flatten)]
    pub(crate) line: Line,
    #[command(flatten)]
    pub(crate) web: WebClient,
}

/// How messages are written to a terminal.
#[derive(Clone, Copy, Group)]
pub(crate) struct Screen {
    /// Write messages to a terminal without escaping control characters
    ///
    /// By default, they are escaped, so that a program cannot move the cursor, change the title or hide
    /// text. Output that does not go to a terminal is never changed.
    #[arg(long)]
    #[arg(hide_short_help = true)]
    pub(crate) raw: bool,
}

#[derive(Group)]
#[command(after_help = "\
Examples:
  tieline bridge stdio: content-length+exec:pylsp
  tieline bridge content-length+stdio: unix:/tmp/agent.sock")]
pub(crate) struct Bridge {
    /// Endpoint or server name of the client's side
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) near: Endpoint,
    /// Endpoint or server name of the server's side
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) far: Endpoint,
    /// JSON-RPC dialect of the line: strict, lsp, mcp, mcp-2025-03-26, acp or xi
    ///
    /// When the line ends, open requests are answered with an error. When a lost session is replaced by a
    /// new one, the recorded handshake is sent to the new program first.
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    pub(crate) dialect: Option<Dialect>,
    #[command(flatten)]
    pub(crate) screen: Screen,
    #[command(flatten)]
    pub(crate) line: Line,
    #[command(flatten)]
    pub(crate) web: WebClient,
}
