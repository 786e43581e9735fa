//! The Claude CLI in stream-json mode: a program that converses in JSON lines over its stdin and
//! stdout, with a control protocol beside the conversation.
//!
//! ```text
//!   query      one question, its answer as a stream
//!     │
//!   Session    + control protocol: initialize, permissions, hooks, interrupt, … ──▶ Inbox of Message
//!     │
//!   Cli        connect, write, messages, end_input, close, is_ready ──▶ Messages of JSON values
//!     │
//!   a child process on pipes, in JSON lines (tieline-transport)
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), tieline_agents::claude::Error> {
//! use tieline_agents::claude::{Callbacks, Message, Options, Permission, query};
//!
//! let options = Options {
//!     callbacks: Callbacks::new().can_use_tool(|tool| async move {
//!         if tool.tool_name == "Bash" { Permission::deny("no shell") } else { Permission::allow() }
//!     }),
//!     ..Options::default()
//! };
//! let mut answer = query("What is in this directory?", &options).await?;
//! while let Some(message) = answer.next().await {
//!     match message? {
//!         Message::Assistant(said) => println!("{}", said.text()),
//!         Message::Result(result) => eprintln!("{} $", result.cost_usd().unwrap_or(0.0)),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//! - A line that is no message costs that line, and is an item of the stream.
//! - Nothing waits for a callback but what it answers.
//! - Dropping everything ends the program and all of its process group at once; `close` does it in
//!   stages. With a [`guardian`](Options::guardian) nothing of it is left, whatever happens.
//! - What nobody takes holds up the program, not our memory: a session keeps 16 MiB.
//! - The program's stderr is always read, and its last words are in the reason of its end.
//!
//! - Prompts above 16 KiB, and settings and MCP servers that are given as JSON, are passed in private
//!   files that are removed with the line: every user can see arguments in the list of processes, and Linux
//!   limits each to 128 KiB. Questions go by stdin.
//!
//! # Seen of the program (2.1.329)
//! - A line on its stdin that is not JSON ends it with status 1; one of an unknown type it passes over.
//! - The text of an answer comes twice, in the `assistant` message and in the `result`: a line limit
//!   costs both.
//! - It says `init` with the first turn, not when it starts, and again with each.
//! - It denies what would need a permission if nobody answers for it, without asking.

mod callbacks;
mod calls;
mod error;
mod files;
mod find;
mod frames;
mod line;
mod message;
mod options;
mod query;
mod reader;
mod session;

pub use callbacks::{Callbacks, Permission, ToolRequest};
pub use error::{End, Error};
pub use find::find;
pub use line::{Cli, Messages};
pub use message::{Assistant, Block, Message, StreamEvent, System, TurnResult, User};
pub use options::Options;
pub use query::{Query, query};
pub use session::{Counts, Inbox, Session};
