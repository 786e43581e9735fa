//! The Claude CLI in stream-json mode: a program that converses in JSON lines over its stdin and stdout,
//! with an additional control protocol.
//!
//! ```text
//!   query      one question and its answer as a stream
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
//!         Message::Assistant(assistant) => println!("{}", assistant.text()),
//!         Message::Result(result) => eprintln!("{} $", result.cost_usd().unwrap_or(0.0)),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//! - A line that is not a valid message affects no other line, and is reported as an item of the stream.
//! - A callback delays only the response to its own request.
//! - Dropping all handles kills the program and its process group at once; `close` stops it in stages. With
//!   a [`guardian`](Options::guardian), none of its descendants survive.
//! - If messages are not received, the program has to wait: a session queues at most 16 MiB.
//! - The program's stderr is always read, and its last lines are part of the reason for its end.
//! - Prompts above 16 KiB, and settings and MCP servers given as JSON, are passed in private files that
//!   are removed when the line is dropped, because arguments are visible to every user and limited to
//!   128 KiB each on Linux. The question of a query is sent over stdin.
//!
//! # Observed behavior (2.1.329)
//! - A line on stdin that is not JSON makes the program exit with status 1. A message of an unknown type is
//!   ignored.
//! - The text of a response is sent twice, in the `assistant` message and in the `result`, so a line
//!   limit affects both.
//! - The program sends `init` at the start of each turn, not when it starts.
//! - If nothing answers permission requests, the program denies the tool without asking.

mod callbacks;
mod calls;
mod cli;
mod error;
mod files;
mod find;
mod frames;
mod message;
mod options;
mod query;
mod reader;
mod session;

pub use callbacks::{Callbacks, Permission, ToolRequest};
pub use cli::{Cli, Messages};
pub use error::{End, Error};
pub use find::find;
pub use message::{Assistant, Block, Message, StreamEvent, System, TurnResult, User};
pub use options::Options;
pub use query::{Query, query};
pub use session::{Counts, Inbox, Session};
