//! `tieline status`.

use clap::Args as Group;
use tieline_transport::Endpoint;

use super::endpoint::endpoint;

#[derive(Group)]
#[command(after_help = "\
Examples:
  tieline status
  tieline status my-agent --watch
  tieline status --url
  tieline status --json | jq '.serves[].connections'")]
pub(crate) struct Status {
    /// Show only the server that listens on ENDPOINT, or has this name [default: all of this user's servers]
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) endpoint: Option<Endpoint>,
    /// Print only a one-time URL that logs a browser in, for each web listener
    ///
    /// Each run of this command prints new URLs, and each URL works once. Do not share them.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    pub(crate) url: bool,
    /// Print one JSON object, {"serves": [...]}, on one line
    #[arg(long)]
    pub(crate) json: bool,
    /// Print again every second until Ctrl-C, in place on a terminal
    #[arg(long)]
    pub(crate) watch: bool,
}
