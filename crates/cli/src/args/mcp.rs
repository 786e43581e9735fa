//! `tieline mcp`.

use std::time::Duration;

use clap::{Args as Group, ValueEnum};
use tieline_transport::Endpoint;

use super::endpoint::endpoint;
use super::line::Reach;
use super::values::duration;
use super::web::WebClient;

#[derive(Group)]
#[command(after_help = "\
Examples:
  tieline mcp tools https://example.org/mcp
  tieline mcp call 'exec:npx -y @modelcontextprotocol/server-everything' get-sum a=2 b=3
  tieline mcp call my-server search '{\"query\":\"lines\"}' --json
  tieline mcp resources my-server file:///notes.txt
  tieline mcp prompts my-server greet name=World")]
pub(crate) struct Mcp {
    /// What to do: list tools, call one, list resources or read one, list prompts or get one
    #[arg(value_name = "ACTION")]
    pub(crate) action: McpAction,
    /// Endpoint or name of an MCP server; quote an exec: endpoint that has arguments
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub(crate) endpoint: Endpoint,
    /// Name of the tool or prompt, or URI of the resource; without it, all are listed
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Arguments: NAME=VALUE for each, or one JSON object, or `-` to read the object from stdin
    ///
    /// A VALUE that is valid JSON is sent as such, unless the tool declares the argument as a string. Anything
    /// else is sent as a string, and so are all arguments of prompts.
    #[arg(value_name = "ARG")]
    pub(crate) arguments: Vec<String>,
    /// Print JSON as the server has sent it: a list, or a result
    #[arg(long)]
    pub(crate) json: bool,
    /// Give up if the command has not finished within TIME, for example 10s or 5m [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) web: WebClient,
}

/// What `tieline mcp` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum McpAction {
    /// List the tools
    Tools,
    /// Call the tool NAME
    Call,
    /// List the resources, or read the resource NAME
    Resources,
    /// List the prompts, or get the prompt NAME
    Prompts,
}
