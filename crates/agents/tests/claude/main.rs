//! Tests of the Claude CLI: with the real program, and with a script for behavior that the real program
//! cannot be made to show.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod callbacks;
mod control;
mod ends;
mod lines;
mod scripted;
#[path = "../support/mod.rs"]
mod support;
mod turns;
mod world;

use support::within;
use tieline_agents::claude::{Inbox, Message, TurnResult};

/// Receives messages until `pick` returns a value.
pub(crate) async fn next<T>(
    inbox: &mut Inbox,
    what: &str,
    mut pick: impl FnMut(Message) -> Option<T>,
) -> T {
    let wanted = async {
        loop {
            let message =
                inbox.next().await.unwrap_or_else(|| panic!("the line ended before {what}"));
            if let Some(found) = pick(message.unwrap()) {
                return found;
            }
        }
    };
    within(what, wanted).await
}

pub(crate) async fn result(inbox: &mut Inbox) -> TurnResult {
    next(inbox, "the result", |message| match message {
        Message::Result(result) => Some(result),
        _ => None,
    })
    .await
}

/// Receives the first part of a text that is being produced.
pub(crate) async fn first_piece(inbox: &mut Inbox) -> String {
    next(inbox, "a piece of text", |message| match message {
        Message::StreamEvent(event) => event.text_delta().map(str::to_owned),
        _ => None,
    })
    .await
}
