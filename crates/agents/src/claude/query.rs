//! One question, and all that is said until it is answered.

use serde_json::Value;

use super::{Counts, End, Error, Inbox, Message, Options, Session};

/// Asks one question, and gives what comes: the model's words, tools, and the result, after which the
/// program ends by itself.
///
/// With [callbacks](Options::callbacks) the program's input stays open until the session is idle: a
/// background agent may still ask after the first result.
///
/// # Errors
/// As [`Session::connect`], [`Session::initialize`] and [`Session::say`].
pub async fn query(prompt: impl Into<Value>, options: &Options) -> Result<Query, Error> {
    let mut options = options.clone();
    let stays_open = !options.callbacks.is_empty();
    options.session_state_events |= stays_open;
    let (session, inbox) = Session::connect(&options).await?;
    if stays_open || options.agents.is_some() {
        session.initialize().await?;
    }
    // Of a program that has gone already, the first message says why.
    told(session.say(prompt).await)?;
    if !stays_open {
        told(session.end_input().await)?;
    }
    let input = if stays_open { Input::Open } else { Input::Ended };
    Ok(Query { session, inbox, input, tells_state: false })
}

fn told(written: Result<(), Error>) -> Result<(), Error> {
    match written {
        Err(Error::Closed(_)) => Ok(()),
        written => written,
    }
}

/// An answer under way. Dropped, it ends the program at once.
#[derive(Debug)]
pub struct Query {
    session: Session,
    inbox: Inbox,
    input: Input,
    /// The program tells when it is idle; older ones do not.
    tells_state: bool,
}

/// The program's input.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Input {
    Open,
    Ending,
    Ended,
}

impl Query {
    /// Waits for the next message; `None` once all is said and the program has ended. Cancel-safe.
    ///
    /// # Errors
    /// As [`Messages::next`](super::Messages::next).
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        loop {
            tokio::select! {
                biased;
                // That it failed means that the program has gone, which is what comes next.
                _ = self.session.end_input(), if self.input == Input::Ending => {
                    self.input = Input::Ended;
                }
                next = self.inbox.next() => {
                    match &next {
                        Some(Ok(message)) if self.input == Input::Open => self.heard(message),
                        Some(_) => {}
                        None => drop(self.session.close().await),
                    }
                    return next;
                }
            }
        }
    }

    /// Ends the program's input when it will ask no more.
    fn heard(&mut self, message: &Message) {
        let is_over = match message {
            Message::System(system) => {
                self.tells_state |= system.subtype() == "session_state_changed";
                system.is_idle()
            }
            Message::Result(_) => !self.tells_state,
            _ => false,
        };
        if is_over {
            self.input = Input::Ending;
        }
    }

    /// Ends the turn under way.
    ///
    /// # Errors
    /// As [`Session::interrupt`].
    pub async fn interrupt(&self) -> Result<(), Error> {
        self.session.interrupt().await
    }

    /// Ends it all in stages, as [`Session::close`].
    pub async fn close(&self) -> End {
        self.session.close().await
    }

    /// What was lost so far.
    pub fn counts(&self) -> Counts {
        self.session.counts()
    }
}
