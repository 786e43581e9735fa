//! `tieline claude`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as Group, ValueEnum};
use tieline_proto::{ByteSize, DEFAULT_MAX_MESSAGE};

use super::values::{directory, message_size};

#[derive(Group)]
#[command(after_help = "\
Examples:
  tieline claude -p 'What is in this directory?'
  git diff | tieline claude -p - --model sonnet
  tieline claude -p 'Fix the tests' --permission-mode acceptEdits --allow 'Bash(cargo *)'
  tieline claude -p 'Summarize' --output json | jq 'select(.type == \"result\").total_cost_usd'
  tieline claude -p 'hello' -- --setting-sources= --effort=low")]
pub(crate) struct Claude {
    /// Prompt to send, or `-` to read it from stdin
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// Print the answer as it is generated (text), or every message, one JSON object per line (json)
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub(crate) output: Output,
    /// Claude program to run [default: `claude` in PATH or in its installers' directories]
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// Model to use
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Permission mode, for example acceptEdits or plan
    #[arg(long, value_name = "MODE")]
    pub(crate) permission_mode: Option<String>,
    /// Allow a tool, for example 'Bash(cargo *)'; may be repeated
    #[arg(long, value_name = "TOOL")]
    pub(crate) allow: Vec<String>,
    /// Continue session ID
    #[arg(long, value_name = "ID")]
    pub(crate) resume: Option<String>,
    /// Run the program in directory DIR
    #[arg(long, value_name = "DIR", value_parser = directory())]
    pub(crate) cwd: Option<PathBuf>,
    /// Refuse messages larger than SIZE, for example 512KiB or 64MiB
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_MAX_MESSAGE, value_parser = message_size)]
    pub(crate) max_message: ByteSize,
    /// Further options, passed to the program unchanged
    #[arg(last = true, value_name = "OPTION")]
    pub(crate) more: Vec<OsString>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// The answer
    Text,
    /// Every message
    Json,
}
