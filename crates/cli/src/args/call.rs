//! `tieline call`.

use std::time::Duration;

use clap::Args as Group;
use tieline_rpc::Dialect;
use tieline_transport::Endpoint;

use super::endpoint::endpoint;
use super::line::Reach;
use super::values::{dialect, duration, method};
use super::web::WebClient;

#[derive(Group)]
#[command(after_help = "\
Examples:
  tieline call my-agent add '[2,3]'
  tieline call 'exec:tieline demo-agent' count '{\"to\":3}' --follow
  tieline call unix:/tmp/agent.sock log '[\"hello\"]' --notify
  echo '{\"name\":\"x\"}' | tieline call unix:/tmp/agent.sock greet -")]
pub(crate) struct Call {
    /// Endpoint or name of a server; quote an exec: endpoint that has arguments
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) endpoint: Endpoint,
    /// Method to call
    #[arg(value_name = "METHOD", value_parser = method)]
    pub(crate) method: String,
    /// Parameters: a JSON array or object, or `-` to read them from stdin
    #[arg(value_name = "PARAMS", allow_hyphen_values = true)]
    pub(crate) params: Option<String>,
    /// Send a notification, and do not wait for a response
    #[arg(long)]
    pub(crate) notify: bool,
    /// Give up if there is no response within TIME, for example 10s or 5m [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// JSON-RPC dialect of the other side: strict, lsp, mcp, mcp-2025-03-26, acp or xi
    #[arg(long, value_name = "DIALECT", default_value = "strict", value_parser = dialect)]
    pub(crate) dialect: Dialect,
    /// Print notifications that arrive before the result, one per line
    #[arg(long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) web: WebClient,
}
