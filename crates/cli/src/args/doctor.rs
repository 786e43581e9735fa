//! `tieline doctor`.

use clap::Args as Group;

#[derive(Clone, Copy, Group)]
#[command(after_help = "\
Examples:
  tieline doctor
  tieline doctor --json | jq '.checks[] | select(.state != \"ok\")'")]
pub(crate) struct Doctor {
    /// Print one JSON object, {"checks": [...]}, on one line
    #[arg(long)]
    pub(crate) json: bool,
}
