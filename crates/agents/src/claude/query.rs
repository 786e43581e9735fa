//! A single question and its answer.

use serde_json::Value;

use super::{Counts, End, Error, Inbox, Message, Options, Session};

/// Asks one question and returns the messages that answer it: the model's output, tool uses, and the
/// result, after which the program exits.
///
/// With [callbacks](Options::callbacks), the program's input stays open until the session is idle, because
/// a background agent may still send requests after the first result.
///
/// # Errors
/// See [`Session::connect`], [`Session::initialize`] and [`Session::say`].
pub async fn query(prompt: impl Into<Value>, options: &Options) -> Result<Query, Error> {
    let mut options = options.clone();
    let stays_open = !options.callbacks.is_empty();
    options.session_state_events |= stays_open;
    let (session, inbox) = Session::connect(&options).await?;
    if stays_open || options.agents.is_some() {
        session.initialize().await?;
    }
    // If the program has already exited, `Query::next` returns the reason.
    ignore_closed(session.say(prompt).await)?;
    if !stays_open {
        ignore_closed(session.end_input().await)?;
    }
    let input = if stays_open { Input::Open } else { Input::Ended };
    Ok(Query { session, inbox, input, reports_state: false })
}

fn ignore_closed(written: Result<(), Error>) -> Result<(), Error> {
    match written {
        Err(Error::Closed(_)) => Ok(()),
        written => written,
    }
}

/// An answer in progress. Dropping it kills the program at once.
#[derive(Debug)]
pub struct Query {
    session: Session,
    inbox: Inbox,
    input: Input,
    /// Whether the program reports when it is idle. Older versions do not.
    reports_state: bool,
}

/// The state of the program's input.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Input {
    Open,
    Ending,
    Ended,
}

impl Query {
    /// Waits for the next message. Returns `None` once all messages were received and the program has
    /// ended. Cancel-safe.
    ///
    /// # Errors
    /// See [`Messages::next`](super::Messages::next).
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        loop {
            tokio::select! {
                biased;
                // A failure means that the program has exited, which is reported next.
                _ = self.session.end_input(), if self.input == Input::Ending => {
                    self.input = Input::Ended;
                }
                next = self.inbox.next() => {
                    match &next {
                        Some(Ok(message)) if self.input == Input::Open => self.close_when_idle(message),
                        Some(_) => {}
                        None => drop(self.session.close().await),
                    }
                    return next;
                }
            }
        }
    }

    /// Closes the program's input once the program will send no more requests.
    fn close_when_idle(&mut self, message: &Message) {
        let is_over = match message {
            Message::System(system) => {
                self.reports_state |= system.subtype() == "session_state_changed";
                system.is_idle()
            }
            Message::Result(_) => !self.reports_state,
            _ => false,
        };
        if is_over {
            self.input = Input::Ending;
        }
    }

    /// Interrupts the current turn.
    ///
    /// # Errors
    /// See [`Session::interrupt`].
    pub async fn interrupt(&self) -> Result<(), Error> {
        self.session.interrupt().await
    }

    /// Stops the program in stages; see [`Session::close`].
    pub async fn close(&self) -> End {
        self.session.close().await
    }

    /// Returns how much was lost so far.
    pub fn counts(&self) -> Counts {
        self.session.counts()
    }
}
