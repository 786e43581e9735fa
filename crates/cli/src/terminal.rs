//! Escapes text from other processes, so that it cannot control the terminal.

use std::task::{Context, Poll};

use bytes::Bytes;
use tieline_proto::json::{self, Limits};
use tieline_proto::{printable, printable_lines};
use tieline_transport::{BoxChannel, Channel, Outgoing, SendError, Sender};

/// Escapes one line of an error or a table, including line breaks.
pub(crate) fn line(text: &str) -> String {
    printable(text.as_bytes()).into_owned()
}

/// Escapes text, except its line breaks.
pub(crate) fn lines(text: &[u8]) -> Vec<u8> {
    printable_lines(text).into_owned().into_bytes()
}

/// Wraps a channel to a terminal so that each message is escaped.
pub(crate) fn escaped(channel: BoxChannel) -> BoxChannel {
    let control = channel.control().clone();
    let (sender, receiver) = channel.split();
    BoxChannel::from_parts(Box::new(Escaped(sender)), receiver, control)
}

struct Escaped(Box<dyn Sender>);

impl Sender for Escaped {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.0.poll_ready(cx)
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        self.0.start_send(lines(&message).into())
    }

    fn pass_on(&mut self, message: Bytes) -> Result<(), SendError> {
        // Join JSON into one line first. Otherwise, a CR between its tokens would be escaped.
        let has_breaks = message.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
        let one_line = has_breaks.then(|| json::to_one_line(&message, Limits::default()).ok());
        let message = one_line.flatten().unwrap_or(message);
        self.0.pass_on(lines(&message).into())
    }

    fn unwritten(&self) -> usize {
        self.0.unwritten()
    }

    fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_acknowledged(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.0.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.0.poll_close(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_gone(cx)
    }

    fn outgoing(&self) -> Outgoing {
        self.0.outgoing()
    }
}
