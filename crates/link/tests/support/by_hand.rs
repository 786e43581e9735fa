//! A connection of a session on which frames are sent and received directly.

#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use tieline_proto::session::{Frame, Hello, Position, Refusal, Welcome};
use tieline_transport::{Channel, Incoming, Receiver, ReceiverExt, Sender, SenderExt};

pub(crate) struct ByHand {
    pub(crate) sender: Box<dyn Sender>,
    pub(crate) receiver: Box<dyn Receiver>,
}

impl ByHand {
    pub(crate) fn over(line: impl Channel) -> Self {
        let (sender, receiver) = line.boxed().split();
        Self { sender, receiver }
    }

    pub(crate) async fn send_frame(&mut self, frame: Frame) {
        self.sender.send(frame.to_bytes()).await.unwrap();
    }

    /// Receives the next frame; `None` once the connection has ended.
    pub(crate) async fn next_frame(&mut self) -> Option<Frame> {
        match self.receiver.recv().await {
            Incoming::Message(frame) => Some(Frame::decode(frame).unwrap()),
            Incoming::End(_) => None,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn answer(&mut self) -> Result<Welcome, Refusal> {
        match self.next_frame().await {
            Some(Frame::Welcome(welcome)) => Ok(welcome),
            Some(Frame::Refused { refusal, .. }) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn greet(&mut self, hello: Hello) -> Result<Welcome, Refusal> {
        self.send_frame(Frame::Hello(hello)).await;
        self.answer().await
    }

    /// Waits for the farewell of the other end, and returns its text.
    pub(crate) async fn farewell(&mut self) -> String {
        loop {
            match self.next_frame().await {
                Some(Frame::Bye(farewell)) => return farewell.text,
                Some(_) => {}
                None => panic!("no farewell"),
            }
        }
    }
}

/// Returns a greeting for a new session, or to resume one.
pub(crate) fn hello(resumes: Option<&Welcome>) -> Hello {
    let resumes = resumes.map(|it| (it.session, it.secret.clone(), it.epoch));
    Hello { resumes, position: Position::default() }
}
