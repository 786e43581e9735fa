//! `tieline status`.

use clap::Args as Group;
use tieline_transport::Endpoint;

use super::values::endpoint;

#[derive(Group)]
#[command(after_help = "\
Each `tieline serve` answers its own user, on a socket beside the default ones, unless it runs with
--no-status. Messages and bytes are counted as the server sees them: in is what clients have said.

Examples:
  tieline status
  tieline status unix:/tmp/agent.sock --watch
  tieline status --json | jq '.serves[].connections'")]
pub(crate) struct Status {
    /// The server that listens here, and no other [default: all of this user's servers]
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) endpoint: Option<Endpoint>,
    /// Print one JSON object, {"serves": [...]}, on one line
    #[arg(long)]
    pub(crate) json: bool,
    /// Say it again every second, in place on a terminal, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
}
