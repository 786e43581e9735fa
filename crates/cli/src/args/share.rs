//! `tieline share`.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args as Group;
use tieline_rpc::Dialect;

use super::values::{dialect, up_to_a_day, variable_name};

#[derive(Group)]
#[cfg_attr(not(unix), allow(dead_code, reason = "the command refuses there"))]
#[command(after_help = "\
Examples:
  claude mcp add everything -- tieline share -- npx -y @modelcontextprotocol/server-everything stdio
  tieline share --ignore-env SSH_AUTH_SOCK -- my-mcp-server
  tieline share --stop -- my-mcp-server
  tieline share --stop                             all of this user's shared programs")]
pub(crate) struct Share {
    /// JSON-RPC dialect of the program: mcp, mcp-2025-03-26 or strict
    #[arg(long, value_name = "DIALECT", default_value = "mcp", value_parser = dialect)]
    pub(crate) dialect: Dialect,
    /// Share the program with clients that have another value of the variable NAME; may be repeated
    ///
    /// The program gets the value of the client that started it. Variables that differ between terminals,
    /// such as SHLVL, WINDOWID and TRACEPARENT, are always ignored, and the program does not get them.
    #[arg(long, value_name = "NAME", value_parser = variable_name)]
    pub(crate) ignore_env: Vec<String>,
    /// End the program and its server when there has been no client for TIME
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = up_to_a_day)]
    pub(crate) idle_timeout: Duration,
    /// End the servers of this command, or of all commands if there is none
    ///
    /// The directory and the environment of a server do not matter.
    #[arg(long, conflicts_with_all = ["ignore_env", "idle_timeout"])]
    pub(crate) stop: bool,
    /// Start the server in the background, without a parent that waits for it.
    #[arg(long, hide = true, value_name = "NAME")]
    pub(crate) start_as: Option<String>,
    /// Be the server with this name.
    #[arg(long, hide = true, value_name = "NAME", conflicts_with = "start_as")]
    pub(crate) serve_as: Option<String>,
    /// Program and its arguments, run without a shell
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "stop")]
    pub(crate) command: Vec<OsString>,
}

impl Share {
    /// Returns whether this process starts no program, so that it must not adopt orphans: the server would become
    /// its child.
    pub(crate) fn is_client(&self) -> bool {
        self.serve_as.is_none()
    }
}
