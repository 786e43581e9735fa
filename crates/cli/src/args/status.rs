//! `tieline status`.

use clap::Args as Group;
use tieline_transport::Endpoint;

use super::values::endpoint;

#[derive(Group)]
#[command(after_help = "\
Examples:
  tieline status
  tieline status unix:/tmp/agent.sock --watch
  tieline status --json | jq '.serves[].connections'")]
pub(crate) struct Status {
    /// Show only the server that listens on ENDPOINT [default: all of this user's servers]
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) endpoint: Option<Endpoint>,
    /// Print one JSON object, {"serves": [...]}, on one line
    #[arg(long)]
    pub(crate) json: bool,
    /// Print again every second, in place on a terminal, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
}
