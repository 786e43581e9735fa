//! The command line: each option with its help, its parsing and its default.

mod call;
mod chaos;
mod connect;
mod line;
mod logging;
mod memory;
mod serve;
mod status;
#[cfg_attr(windows, path = "args/windows.rs")]
#[cfg_attr(not(windows), path = "args/unix.rs")]
mod system;
mod values;
mod web;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use tieline_transport::redact;

use crate::shell::quote;

pub(crate) use call::Call;
pub(crate) use chaos::{Bytes, Chaos};
pub(crate) use connect::{Bridge, Connect, Screen};
pub(crate) use line::Line;
pub(crate) use logging::{LogFormat, Logging};
pub(crate) use serve::Serve;
pub(crate) use status::Status;
#[cfg(unix)]
pub(crate) use values::message_size;
pub(crate) use web::{TOKEN, WebServer};

/// One line between two processes: whole messages over whatever lies underneath.
#[derive(Parser)]
#[command(name = "tieline", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tieline serve                                   try it, with a built-in agent
  tieline serve -- my-agent --verbose             put a program on a Unix socket
  echo '{\"id\":1}' | tieline connect unix:/run/user/1000/tieline/my-agent.sock
  tieline bridge stdio: content-length+exec:pylsp speak lines to a language server
  tieline chaos unix:/tmp/bad.sock unix:/tmp/agent.sock --cut-every 5s    a bad line, on purpose

Endpoints:
  unix:PATH  unix:@ABSTRACT  pipe:NAME (Windows)  exec:COMMAND ARG...  exec:[\"COMMAND\",\"ARG\"]  stdio:  tcp:HOST:PORT
  ws://HOST:PORT/PATH  wss://HOST/PATH  ws-unix:PATH
  http://HOST:PORT/sse  https://HOST/sse  http-unix:PATH (events and POST); to listen for all of these: http://HOST:PORT
  A framing may stand in front: lines+ (the usual), content-length+, length-prefix+; or resume+, for
  a session that survives its connection

Exit status: 0 all went well, 1 something failed, 2 the command line is wrong.";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Put a stdio program on a socket; each client gets a process of its own.
    Serve(Box<Serve>),
    /// Speak to an endpoint: lines from stdin go out, messages come to stdout.
    Connect(Connect),
    /// Call a JSON-RPC method and print its result.
    Call(Call),
    /// Pump messages both ways between two endpoints, converting the framing.
    Bridge(Bridge),
    /// Ask the Claude CLI, and print its answer as it comes.
    #[cfg(unix)]
    Claude(crate::claude::Claude),
    /// Say what the servers of this user are doing.
    Status(Status),
    /// Stand between a client and a server, and cut, delay, throttle, swallow or spoil their bytes.
    Chaos(Chaos),
    /// The built-in JSON-RPC agent on stdio: echo, add, sleep, count, crash, flood.
    #[command(after_help = "\
Examples:
  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\",\"params\":[2,3]}' | tieline demo-agent
  tieline connect 'exec:tieline demo-agent'")]
    DemoAgent,
    /// Print a completion script for a shell.
    #[command(after_help = "\
Examples:
  tieline completions bash > ~/.local/share/bash-completion/completions/tieline
  tieline completions fish > ~/.config/fish/completions/tieline.fish")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Args {
    /// What was typed; whoever typed something else is told, and the process ends.
    pub(crate) fn understand() -> Self {
        Self::try_parse().unwrap_or_else(|error| with_tip(without_secrets(error)).exit())
    }
}

/// What was typed wrong may be a secret with a slip in it, or contain one.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let option = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let typed = error.get(ContextKind::InvalidValue).map(ToString::to_string);
    if let Some(typed) = typed.filter(|typed| !typed.is_empty()) {
        let name = option.split_whitespace().next().unwrap_or_default();
        // As if they stood together: of a secret option nothing is left.
        let shown = redact(&format!("{name}={typed}"));
        let shown = shown.strip_prefix(&format!("{name}=")).unwrap_or("…");
        // A secret may contain spaces, and then its other words belong to it.
        let shown = if shown.starts_with('…') { "…" } else { shown }.to_owned();
        error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
    if let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg)
        && error.kind() == ErrorKind::UnknownArgument
    {
        let shown = redact(option);
        error.insert(ContextKind::InvalidArg, ContextValue::String(shown));
    }
    error
}

/// A program's name may stand where only our own words do; clap has a tip for its options alone.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return error };
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    if error.kind() == ErrorKind::UnknownArgument
        && !word.starts_with('-')
        && usage.contains("[-- <COMMAND>...]")
    {
        let tip = format!("a program and its arguments stand behind `--`: -- {}", quote(word));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_was_typed_wrong_is_not_printed_if_it_may_be_a_secret() {
        for (typed, says) in [
            (&["serve", "--token", "abc"][..], "invalid value '…' for '--token <TOKEN>'"),
            (&["serve", "--token=abc"], "invalid value '…' for '--token <TOKEN>'"),
            (&["serve", "--token", "x abc"], "invalid value '…' for '--token <TOKEN>'"),
            (&["connect", "x --token=abc"], "invalid value 'x --token=…' for '<ENDPOINT>'"),
            (&["connect", "nope:[\"x\",\"abc\"]x+"], "nope"),
            (&["connect", "unix:/a?token=abc"], "invalid value 'unix:/a?token=…' for"),
            (&["connect", "unix:/a", "--tokn=abc"], "unexpected argument '--tokn"),
            (&["connect", "unix:/a", "https://me:abc@host"], "unexpected argument"),
        ] {
            let Some(error) = Args::try_parse_from([&["tieline"], typed].concat()).err() else {
                continue;
            };
            let text = without_secrets(error).to_string();
            assert!(text.contains(says) && !text.contains("abc"), "{text}");
        }
    }

    #[test]
    fn a_program_without_its_two_dashes_gets_a_tip() {
        let tip_for = |typed: &[&str]| {
            let error = Args::try_parse_from([&["tieline"], typed].concat()).err().unwrap();
            with_tip(error)
                .to_string()
                .contains("tip: a program and its arguments stand behind `--`: -- cat")
        };
        assert!(tip_for(&["serve", "cat"]) && tip_for(&["-v", "serve", "--resume", "cat", "-n"]));
        assert!(!tip_for(&["connect", "unix:/x", "cat"]) && !tip_for(&["serve", "--cat"]));
    }
}
