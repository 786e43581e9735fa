//! `tieline call`.

use std::time::Duration;

use clap::Args as Group;
use tieline_rpc::Dialect;
use tieline_transport::Endpoint;

use super::line::Reach;
use super::values::{dialect, duration, endpoint};
use super::web::WebClient;

#[derive(Group)]
#[command(after_help = "\
The result goes to stdout, indented on a terminal and on one line elsewhere. An error that the other
side answers goes to stderr with its code, and the status is 1. With the answer the command is done: a
program that it started has --stop-timeout in all to end, up to half of it (at most 2 s) before SIGTERM.

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
    #[command(flatten)]
    pub(crate) web: WebClient,
}
