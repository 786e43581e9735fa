//! `tieline claude`: one question to the Claude CLI, its options and its answer.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tieline_agents::claude::{Error, Message, Options, query};
use tieline_proto::{ByteSize, DEFAULT_MAX_MESSAGE};
use tieline_transport::{ChannelConfig, CloseReason};

use crate::args::message_size;
use crate::call::{Printer, read_stdin};
use crate::children;
use crate::report::Failure;
use crate::signals::Signals;

#[derive(Args)]
#[command(after_help = "\
A tool that would need a permission is not used, unless an option allows it. When the answer is
there, or Ctrl-C is pressed, the program is ended with all it has started. The status is 1 if the
program is missing or the answer is an error.

Examples:
  tieline claude -p 'What is in this directory?'
  git diff | tieline claude -p - --model sonnet
  tieline claude -p 'Mend the tests' --permission-mode acceptEdits --allow 'Bash(cargo *)'
  tieline claude -p 'Summarize' --output json | jq 'select(.type == \"result\").total_cost_usd'
  tieline claude -p 'hello' -- --setting-sources= --effort=low")]
pub(crate) struct Claude {
    /// The question, or `-` to read it from stdin
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// What is printed: text, the answer as it comes; json, everything that is said, an object a line
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    output: Output,
    /// The program [default: `claude` in PATH, or where its installers put it]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// The model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// What is done without asking, like acceptEdits or plan
    #[arg(long, value_name = "MODE")]
    permission_mode: Option<String>,
    /// A tool that may be used; may be given several times
    #[arg(long, value_name = "TOOL")]
    allow: Vec<String>,
    /// Go on with this session
    #[arg(long, value_name = "ID")]
    resume: Option<String>,
    /// The directory that it works in
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// The largest message, like 512KiB or 64MiB
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_MAX_MESSAGE, value_parser = message_size)]
    max_message: ByteSize,
    /// More options for the program, as they are
    #[arg(last = true, value_name = "OPTION")]
    more: Vec<OsString>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    /// The answer
    Text,
    /// Everything
    Json,
}

pub(crate) async fn run(args: Claude) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    tokio::select! {
        asked = ask(args) => asked,
        // Dropping the answer ends the program and all that came of it.
        () = tieline_transport::stdout_closed() => {
            Err(Failure::Said("stdout was closed: nothing reads the answer any more".into()))
        }
        () = signals.first() => Err(Failure::Said("ended by a signal".into())),
    }
}

async fn ask(args: Claude) -> Result<(), Failure> {
    let prompt = match args.prompt.as_str() {
        "-" => from_stdin(args.max_message).await?,
        text => text.to_owned(),
    };
    let output = args.output;
    let mut answer = query(prompt, &args.options()).await.map_err(failure)?;
    let (printer, printed) = Printer::start()?;
    let mut text = Text::default();
    let mut outcome = Outcome::default();
    loop {
        let message = tokio::select! {
            message = answer.next() => message,
            // Nobody reads what else is said.
            () = printer.closed() => break,
        };
        let message = match message {
            None => break,
            Some(Ok(message)) => message,
            Some(Err(Error::Closed(reason))) => {
                outcome.closed = Some(reason);
                continue;
            }
            Some(Err(error)) => {
                tracing::warn!("{error}");
                continue;
            }
        };
        outcome.heard(&message);
        let said = match output {
            Output::Text => text.of(&message),
            Output::Json => Some(format!("{}\n", message.raw())),
        };
        if let Some(said) = said {
            printer.write(said.into_bytes()).await;
        }
    }
    printer.write(text.end().into()).await;
    drop(printer);
    printed.all().await?;
    outcome.judge()
}

async fn from_stdin(limit: ByteSize) -> Result<String, Failure> {
    let text = read_stdin(limit).await?;
    if text.len() > limit.bytes() {
        return Err(Failure::Said(format!("the question is longer than --max-message, {limit}")));
    }
    String::from_utf8(text).map_err(|_| Failure::Said("the question is not UTF-8".into()))
}

impl Claude {
    fn options(self) -> Options {
        let defaults = Options::default();
        Options {
            program: self.program,
            cwd: self.cwd,
            entrypoint: "tieline".to_owned(),
            model: self.model,
            permission_mode: self.permission_mode,
            allowed_tools: self.allow,
            resume: self.resume,
            extra_args: self.more,
            include_partial_messages: self.output == Output::Text,
            channel: ChannelConfig { max_message: self.max_message, ..defaults.channel },
            guardian: Some(children::guardian()),
            env: children::environment(None),
            ..defaults
        }
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Launch(error) => Failure::Transport(error),
        error => Failure::Said(error.to_string()),
    }
}

/// How it went.
#[derive(Default)]
struct Outcome {
    answered: bool,
    /// The program's own words.
    error: Option<String>,
    closed: Option<CloseReason>,
}

impl Outcome {
    fn heard(&mut self, message: &Message) {
        let Message::Result(result) = message else { return };
        self.answered = true;
        let words = || result.text().unwrap_or(result.subtype()).to_owned();
        self.error = result.is_error().then(words);
    }

    fn judge(self) -> Result<(), Failure> {
        let why = match self {
            // The exit status only says again what the program has said in words.
            Self { error: Some(words), .. } => words,
            Self { closed: Some(reason), .. } => reason.to_string(),
            Self { answered: false, .. } => "the program has ended without a result".to_owned(),
            _ => return Ok(()),
        };
        Err(Failure::Said(format!("claude: {why}")))
    }
}

/// The text of an answer as it comes, piece by piece.
#[derive(Default)]
struct Text {
    /// The message that is on its way was printed in pieces.
    in_pieces: bool,
    /// The last line is not ended.
    open: bool,
}

impl Text {
    /// What is to be printed of this message. What subagents say is not the answer.
    fn of(&mut self, message: &Message) -> Option<String> {
        if message.parent_tool_use_id().is_some() {
            return None;
        }
        let (before, text) = match message {
            Message::StreamEvent(event) => {
                let text = event.text_delta()?;
                let is_first = !std::mem::replace(&mut self.in_pieces, true);
                (if is_first { self.end() } else { "" }, text.to_owned())
            }
            // Some are said at once: there were no pieces.
            Message::Assistant(said) => {
                let text = said.text();
                if text.is_empty() || std::mem::take(&mut self.in_pieces) {
                    return None;
                }
                (self.end(), text)
            }
            _ => return None,
        };
        self.open = if text.is_empty() { self.open } else { !text.ends_with('\n') };
        Some(format!("{before}{text}"))
    }

    /// What ends the last line.
    fn end(&mut self) -> &'static str {
        if std::mem::take(&mut self.open) { "\n" } else { "" }
    }
}
