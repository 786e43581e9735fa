//! The command line: every option with its help text, parser and default.

mod call;
mod chaos;
#[cfg(unix)]
mod claude;
mod completions;
mod connect;
mod credentials;
mod doctor;
mod endpoint;
mod line;
mod logging;
mod mcp;
mod memory;
mod oauth;
mod processes;
mod renamed;
mod secrets;
mod serve;
mod share;
mod status;
#[cfg_attr(windows, path = "args/windows.rs")]
#[cfg_attr(not(windows), path = "args/unix.rs")]
mod system;
mod values;
mod web;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use tieline_transport::redact;

use crate::shell::quote;
use values::duration;

pub(crate) use call::Call;
pub(crate) use chaos::{Bytes, Chaos};
#[cfg(unix)]
pub(crate) use claude::{Claude, Output};
pub(crate) use completions::shown;
pub(crate) use connect::{Bridge, Connect, Screen};
pub(crate) use doctor::Doctor;
pub(crate) use endpoint::is_scheme;
pub(crate) use line::Line;
pub(crate) use logging::Logging;
pub(crate) use mcp::{Mcp, McpAction};
pub(crate) use serve::Serve;
pub(crate) use share::Share;
pub(crate) use status::Status;
pub(crate) use web::WebServer;

/// Connect two processes with a line that carries whole messages
#[derive(Parser)]
#[command(name = "tieline", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tieline serve                                   serve the built-in demo agent
  tieline serve --name my-agent -- npx -y my-agent --verbose    serve a program
  echo '{\"id\":1}' | tieline connect my-agent
  tieline bridge stdio: content-length+exec:pylsp use a language server line by line
  tieline chaos unix:/tmp/bad.sock unix:/tmp/agent.sock --cut-every 5s    simulate lost connections

Endpoints:
  NAME of a server that this user runs (tieline serve --name NAME); `tieline status` lists the names
  unix:PATH  unix:@ABSTRACT  pipe:NAME (Windows)  exec:COMMAND ARG...  exec:[\"COMMAND\",\"ARG\"]  stdio:  tcp:HOST:PORT
  ws://HOST:PORT/PATH  wss://HOST/PATH  ws-unix:PATH  ws-pipe:NAME (Windows)
  http://HOST:PORT/sse  https://HOST/sse  http-unix:PATH  http-pipe:NAME (server-sent events and POST)
  https://HOST/mcp  http-unix:PATH:/mcp  mcp+https://HOST/PATH (an MCP server over HTTP)
  A server listens on http://HOST:PORT, https://HOST:PORT, http-unix:PATH or http-pipe:NAME for all web clients.
  Prefix an endpoint with a framing (lines+, the default; content-length+; length-prefix+), or with
  resume+ for a session that survives a lost connection.

Exit status: 0 success, 1 failure, 2 usage error.";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve a stdio program on a socket or the web: one process per client, or a shared one
    ///
    /// Prints each endpoint that it listens on to stdout, one per line; everything else goes to stderr.
    ///
    /// SIGINT, SIGTERM or SIGHUP stops the server: no further client is accepted, each program's input
    /// is closed, the messages that the program still sends are delivered, and the sockets are removed.
    /// A second signal stops everything at once.
    Serve(Box<Serve>),
    /// Connect to an endpoint: send lines from stdin, print messages to stdout
    ///
    /// The end of stdin is passed on, and messages that still arrive are printed before the command exits.
    Connect(Connect),
    /// Connect stdin and stdout to a program that several clients share, in place of the program
    ///
    /// Write it before a program's command in the configuration of a client, such as an editor. The first
    /// client starts a server for the program in the background. Clients with the same command line,
    /// directory and environment use the same program. The server ends when it has had no client for
    /// --idle-timeout. It serves only this user, `tieline status` lists it, and --stop ends it.
    ///
    /// If the program cannot be started or ends, the exit status is 1, with the program's last lines on
    /// stderr.
    Share(Share),
    /// Call a JSON-RPC method and print its result
    ///
    /// The result goes to stdout: indented on a terminal, on one line elsewhere. An error response goes to
    /// stderr with its code, and the exit status is 1.
    ///
    /// A program that was started for the call may take up to --stop-timeout to exit after its response. SIGTERM is
    /// sent after half of that time, or after 2 s if that is earlier.
    Call(Call),
    /// List and use the tools, resources and prompts of an MCP server
    ///
    /// The endpoint may be a program (exec:), a server's name or socket, or a URL such as https://example.org/mcp.
    /// Lists are read to their end. A tool that fails, and an error of the server, give exit status 1 with the
    /// server's text on stderr.
    Mcp(Mcp),
    /// Forward messages in both directions between two endpoints, converting the framing
    ///
    /// The first endpoint is the client's side: the end of its input is passed on to the second, and when
    /// the second ends, the bridge ends. Between two different framings every message must be JSON.
    Bridge(Bridge),
    /// Send a prompt to the Claude CLI and stream its answer
    ///
    /// Tools that need permission are not used unless an option allows them. After the answer, or on
    /// Ctrl-C, the program and everything it started are stopped. The exit status is 1 if the program is missing
    /// or the answer is an error.
    #[cfg(unix)]
    Claude(Claude),
    /// Show what this user's servers are doing
    ///
    /// Each `tieline serve` answers its own user on a socket next to the default ones, unless it runs with
    /// --no-status. Messages and bytes are counted from the server's side: "in" is what clients sent.
    Status(Status),
    /// Check what works on this machine, and print how to fix what does not
    ///
    /// Prints one line for each check: ok, warning (something optional does not work) or problem (a command
    /// will fail). The exit status is 1 if there is a problem. The command starts itself as a child,
    /// creates the runtime directory if there is none, and leaves nothing else behind.
    Doctor(Doctor),
    /// Run a proxy that cuts connections, and delays, throttles, discards or corrupts their bytes
    ///
    /// Use it to test how a client or a server copes with a bad connection. The proxy forwards bytes and
    /// does not parse messages. Each client gets its own connection to TARGET.
    ///
    /// Prints the endpoint that it listens on to stdout; everything else goes to stderr. With -v this
    /// includes each connection and each cut. SIGINT, SIGTERM or SIGHUP stops the proxy, closes all connections
    /// and prints a summary.
    Chaos(Chaos),
    /// Run the built-in JSON-RPC agent on stdio: echo, add, sleep, count, crash, flood
    #[command(after_help = "\
Examples:
  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\",\"params\":[2,3]}' | tieline demo-agent
  tieline connect 'exec:tieline demo-agent'")]
    DemoAgent,
    /// Write the manual pages, one for each command, into a directory
    ///
    /// Prints the name of each page. An existing file of that name is replaced.
    #[command(after_help = "\
Examples:
  mkdir -p ~/.local/share/man/man1 && tieline man ~/.local/share/man/man1
  man tieline-serve")]
    Man {
        /// Directory for the pages
        directory: std::path::PathBuf,
    },
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  tieline completions bash > ~/.local/share/bash-completion/completions/tieline
  tieline completions zsh > ~/.zfunc/_tieline              (~/.zfunc must be in fpath)
  tieline completions fish > ~/.config/fish/completions/tieline.fish")]
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
}

impl Args {
    /// Parses the command line; on a usage error, prints it and exits. Also returns a warning for each option that
    /// was given by its old name.
    pub(crate) fn parse_or_exit() -> (Self, Vec<String>) {
        let typed: Vec<_> = std::env::args_os().collect();
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(&typed);
        match matches.and_then(|mut matches| Self::from_arg_matches_mut(&mut matches)) {
            Ok(args) => (args, renamed::warnings(&command, &typed)),
            Err(error) => with_tip(without_secrets(error.format(&mut command))).exit(),
        }
    }
}

/// Redacts the rejected argument, because it may be or contain a mistyped secret.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let option = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let typed = error.get(ContextKind::InvalidValue).map(ToString::to_string);
    if let Some(typed) = typed.filter(|typed| !typed.is_empty()) {
        let name = option.split_whitespace().next().unwrap_or_default();
        // The option and its value form one argument, so that the value of a secret option is redacted
        // completely.
        let shown = redact(&format!("{name}={typed}"));
        let shown = shown.strip_prefix(&format!("{name}=")).unwrap_or("…");
        // A secret may contain spaces, so do not show the words after the redacted one.
        let shown = if shown.starts_with('…') { "…" } else { shown }.to_owned();
        error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) if error.kind() == ErrorKind::UnknownArgument => {
            let shown = redact(option);
            error.insert(ContextKind::InvalidArg, ContextValue::String(shown));
        }
        _ => {}
    }
    error
}

/// Adds a tip to the error for an unknown argument. Clap has tips only for similar options.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return error };
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    if let Some(tip) = tip(word, &usage) {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        // Remove clap's suggestion to pass an unknown option to the program.
        error.remove(ContextKind::TrailingArg);
    }
    error
}

/// Returns the tip for an unexpected argument of the command with this usage.
fn tip(word: &str, usage: &str) -> Option<String> {
    let is_option = word.starts_with('-');
    Some(match word.split('=').next().unwrap_or_default() {
        "--port" => "write the port in an endpoint: --listen http://127.0.0.1:8080".into(),
        "--config" => {
            "there is no configuration file; write the options on the command line".into()
        }
        _ if !is_option && usage.contains("[-- <COMMAND>...]") => match duration(word) {
            Ok(_) => format!("write the time directly after the option: --resume={word}"),
            Err(_) => {
                format!("write `--` before the program and its arguments: -- {}", quote(word))
            }
        },
        _ if !is_option && usage.contains("<METHOD> [PARAMS]") => {
            "write the parameters as one JSON value, for example '[2,3]'".into()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn usage_errors_do_not_print_secrets() {
        for (typed, says) in [
            (&["serve", "--token", "abc"][..], "invalid value '…' for '--token <TOKEN>'"),
            (&["serve", "--token=abc"], "invalid value '…' for '--token <TOKEN>'"),
            (&["connect", "ws://a", "--header", "X abc"], "invalid value '…' for '--header"),
            (&["connect", "ws://a", "--header=abc"], "invalid value '…' for '--header"),
            (&["connect", "ws://a", "--basic", "me:abc"], "pass the password with"),
            (&["connect", "ws://a", "--basic=me:abc"], "pass the password with"),
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
    fn missing_double_dash_before_a_program_is_suggested() {
        let tip_for = |typed: &[&str]| {
            let error = Args::try_parse_from([&["tieline"], typed].concat()).err().unwrap();
            with_tip(error)
                .to_string()
                .contains("tip: write `--` before the program and its arguments: -- cat")
        };
        assert!(tip_for(&["serve", "cat"]) && tip_for(&["-v", "serve", "--resume", "cat", "-n"]));
        assert!(!tip_for(&["connect", "unix:/x", "cat"]) && !tip_for(&["serve", "--cat"]));
    }

    #[test]
    fn errors_for_unexpected_arguments_have_a_tip() {
        for (typed, says) in [
            (&["serve", "--resume", "5m", "--", "cat"][..], "--resume=5m"),
            (&["serve", "--port", "8080", "--", "cat"], "--listen http://127.0.0.1:8080"),
            (&["serve", "--port=8080", "--", "cat"], "--listen http://127.0.0.1:8080"),
            (&["serve", "--config", "x"], "there is no configuration file"),
            (&["call", "exec:cat", "add", "2", "3"], "as one JSON value, for example '[2,3]'"),
        ] {
            let error = Args::try_parse_from([&["tieline"], typed].concat()).err().unwrap();
            let text = with_tip(error).to_string();
            assert!(text.contains(says) && !text.contains("as a value"), "{typed:?}: {text}");
        }
    }
}
