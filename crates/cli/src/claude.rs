//! `tieline claude`: sends one prompt to the Claude CLI and prints the answer.

use tieline_agents::claude::{Error, Message, Options, query};
use tieline_proto::ByteSize;
use tieline_transport::{ChannelConfig, CloseReason};

use crate::args::{Claude, Output};
use crate::children;
use crate::report::Failure;
use crate::signals::Signals;
use crate::stdin::read_stdin;
use crate::stdout::Printer;

pub(crate) async fn run(args: Claude) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    tokio::select! {
        asked = ask(args) => asked,
        // Dropping the query ends the program and its descendants.
        () = tieline_transport::stdout_closed() => {
            Err(Failure::other("stdout was closed before the answer was complete"))
        }
        () = signals.first() => Err(Failure::other("stopped by a signal")),
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
            // stdout was closed, so the rest cannot be printed.
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
        return Err(Failure::other(format!("the prompt is larger than --max-message ({limit})")));
    }
    String::from_utf8(text).map_err(|_| Failure::other("the prompt is not valid UTF-8"))
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
        error => Failure::other(error.to_string()),
    }
}

/// The outcome of the query.
#[derive(Default)]
struct Outcome {
    answered: bool,
    /// The error text of the result.
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
            // The error text says more than the exit status.
            Self { error: Some(words), .. } => words,
            Self { closed: Some(reason), .. } => reason.to_string(),
            Self { answered: false, .. } => "the program ended without a result".to_owned(),
            _ => return Ok(()),
        };
        Err(Failure::other(format!("claude: {why}")))
    }
}

/// Collects the text of a streamed answer.
#[derive(Default)]
struct Text {
    /// Whether the current message was printed in pieces.
    in_pieces: bool,
    /// Whether the last printed line has no line break yet.
    open: bool,
}

impl Text {
    /// Returns the text of `message` to print. Messages of subagents are not part of the answer.
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
            // The message was not streamed, so print all of it.
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

    /// Returns the line break that ends the last line, if it is open.
    fn end(&mut self) -> &'static str {
        if std::mem::take(&mut self.open) { "\n" } else { "" }
    }
}
