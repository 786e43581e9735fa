//! A channel that reconnects, and its outgoing half.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tieline_transport::{
    Channel, CloseReason, Control, ControlBuilder, DynConnector, Outgoing, SendError, Sender,
    TransportError,
};

use crate::lock::lock;
use crate::receiver::LinkReceiver;
use crate::recovery::{Decider, Recovery};
use crate::shared_link::{LinkBacking, Receiving, Sending, SharedLink};
use crate::state::{LineState, LineStates, StatePublisher};

/// The options of a [`Link`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct LinkOptions {
    /// How the link recovers from lost lines; by default as [suits](Recovery::suiting) its endpoint.
    pub recovery: Option<Recovery>,
    /// Whether the link carries a session. If so, a framing error ends the link, because the session
    /// would send the same bytes again.
    pub(crate) is_carrier: bool,
}

impl LinkOptions {
    /// Returns the default options with this recovery.
    pub fn recovering(recovery: Recovery) -> Self {
        Self { recovery: Some(recovery), ..Self::default() }
    }
}

/// A [`Channel`] that reconnects: when one line ends, it connects another.
///
/// It is as passive as any channel: the task that [receives](LinkReceiver) does the work. Dropping both
/// halves ends everything at once, and so does [`Control::abort`]. [`Control::stop`] ends it in stages. The
/// [crate documentation](crate) says what happens to messages.
pub struct Link {
    sender: LinkSender,
    receiver: LinkReceiver,
    control: Control,
}

impl Link {
    /// Connects the first line. Cancel-safe: a dropped attempt leaves nothing running.
    ///
    /// # Errors
    /// The first line could not be connected. The attempt is not repeated; the caller decides whether to
    /// try again.
    pub async fn connect(
        connector: Arc<dyn DynConnector>,
        options: LinkOptions,
    ) -> Result<Self, TransportError> {
        let publisher = StatePublisher::first(LineState::Connecting { attempt: 1 });
        Self::connect_as(connector, options, publisher).await
    }

    /// Connects the first line and publishes its states to an existing publisher.
    pub(crate) async fn connect_as(
        connector: Arc<dyn DynConnector>,
        options: LinkOptions,
        publisher: StatePublisher,
    ) -> Result<Self, TransportError> {
        let line = connector.connect().await?;
        let of_line = line.control().clone();
        let (sender, receiver) = line.split();
        let info = of_line.info();
        let recovery = options.recovery.unwrap_or_else(|| Recovery::suiting(&info));
        let receiving = Receiving::new(receiver, of_line.clone(), Decider::new(recovery))
            .carrying(options.is_carrier);
        let shared = SharedLink::new(connector, publisher, sender, receiving, of_line.clone());
        let shared = Arc::new(shared);
        let control = ControlBuilder {
            kind: info.kind,
            endpoint: of_line.endpoint().clone(),
            peer: None,
            capabilities: of_line.capabilities(),
            profile: of_line.profile(),
            backing: Arc::new(LinkBacking(Arc::downgrade(&shared))),
        };
        let control = control.build();
        if let Some(framing) = of_line.framing() {
            control.set_framing(framing);
        }
        let _ = shared.control.set(control.clone());
        shared.publish(LineState::Connected { epoch: 1 });
        Ok(Self { sender: LinkSender(shared.clone()), receiver: LinkReceiver(shared), control })
    }

    pub(crate) fn shared(&self) -> Arc<SharedLink> {
        self.sender.0.clone()
    }

    /// Returns the states from now on. Call this before splitting the link; the result outlives it.
    pub fn states(&self) -> LineStates {
        LineStates::of(self.sender.0.publisher(), true)
    }
}

impl Channel for Link {
    type Sender = LinkSender;
    type Receiver = LinkReceiver;

    fn control(&self) -> &Control {
        &self.control
    }

    fn split(self) -> (LinkSender, LinkReceiver) {
        (self.sender, self.receiver)
    }
}

/// The outgoing half of a [`Link`].
///
/// While there is no line, senders wait, and nothing is queued. Once this half is closed or dropped, the link
/// no longer reconnects.
pub struct LinkSender(Arc<SharedLink>);

impl LinkSender {
    /// Registers the task for the next line; fails if the link has ended.
    fn wait(&self, cx: &Context<'_>) -> Poll<Result<(), SendError>> {
        // A line is installed under the lock that is held here, and tasks are woken after that, so no
        // wake-up is missed.
        self.0.register_sender(cx.waker());
        match self.0.end() {
            Some(reason) => Poll::Ready(Err(closed(reason))),
            None => Poll::Pending,
        }
    }

    /// Calls `act` with the current line; returns `None` if there is none, or if it has just failed.
    fn on_line(
        &self,
        sending: &mut Sending,
        act: impl FnOnce(&mut dyn Sender) -> Poll<Result<(), SendError>>,
    ) -> Option<Poll<Result<(), SendError>>> {
        match act(sending.line.as_deref_mut()?) {
            Poll::Ready(Err(SendError::Closed(reason))) => {
                self.0.broken(sending, *reason);
                None
            }
            polled => Some(polled),
        }
    }

    /// Sends a message without reporting the loss of earlier ones, which other callers sent.
    pub(crate) async fn feed_as_first(&mut self, message: Bytes) -> Result<(), SendError> {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await?;
        let mut sending = lock(&self.0.sending);
        sending.unreported = 0;
        self.start(&mut sending, message.len(), |line| line.start_send(message))
    }

    /// Calls `act` with the current line; returns `Pending` if there is none. This is for sessions: they
    /// keep their messages, so nothing is counted as lost.
    pub(crate) fn poll_line(
        &self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut dyn Sender, &mut Context<'_>) -> Poll<Result<(), SendError>>,
    ) -> Poll<()> {
        let mut sending = lock(&self.0.sending);
        let acted = self.on_line(&mut sending, |line| act(line, cx));
        match acted {
            Some(Poll::Ready(_)) => Poll::Ready(()),
            Some(Poll::Pending) | None => {
                self.0.register_sender(cx.waker());
                Poll::Pending
            }
        }
    }

    /// Returns whether there is a line at present.
    pub(crate) fn has_line(&self) -> bool {
        lock(&self.0.sending).line.is_some()
    }

    fn start(
        &self,
        sending: &mut Sending,
        length: usize,
        start: impl FnOnce(&mut dyn Sender) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        if sending.is_closing {
            return Err(self.not_open());
        }
        let sent = self.on_line(sending, |line| Poll::Ready(start(line)));
        match (sent, self.0.end()) {
            (Some(Poll::Ready(Ok(()))), _) => sending.unflushed += 1,
            (Some(Poll::Ready(Err(error))), _) => return Err(error),
            (_, Some(reason)) => return Err(closed(reason)),
            // The line that was ready for the message is gone. The message is not sent on the next one,
            // which may need a handshake first.
            (_, None) => {
                sending.lose(1);
                sending.unwritten += length;
            }
        }
        Ok(())
    }

    fn not_open(&self) -> SendError {
        closed(self.0.end().unwrap_or(CloseReason::ByUs))
    }
}

fn closed(reason: CloseReason) -> SendError {
    SendError::Closed(Box::new(reason))
}

impl Sender for LinkSender {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut sending = lock(&self.0.sending);
        if sending.is_closing {
            return Poll::Ready(Err(self.not_open()));
        }
        match self.on_line(&mut sending, |line| line.poll_ready(cx)) {
            Some(Poll::Pending) => {
                // Another line may replace one that is stalled.
                self.0.register_sender(cx.waker());
                Poll::Pending
            }
            Some(ready) => ready,
            None => self.wait(cx),
        }
    }

    fn start_send(&mut self, message: Bytes) -> Result<(), SendError> {
        let mut sending = lock(&self.0.sending);
        self.start(&mut sending, message.len(), |line| line.start_send(message))
    }

    fn pass_on(&mut self, message: Bytes) -> Result<(), SendError> {
        let mut sending = lock(&self.0.sending);
        self.start(&mut sending, message.len(), |line| line.pass_on(message))
    }

    fn start_send_with_head(&mut self, head: &[u8], message: &Bytes) -> Result<(), SendError> {
        let mut sending = lock(&self.0.sending);
        let length = head.len() + message.len();
        self.start(&mut sending, length, |line| line.start_send_with_head(head, message))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut sending = lock(&self.0.sending);
        match self.on_line(&mut sending, |line| line.poll_flush(cx)) {
            Some(Poll::Pending) => {
                self.0.register_sender(cx.waker());
                return Poll::Pending;
            }
            Some(Poll::Ready(Ok(()))) => sending.unflushed = 0,
            Some(Poll::Ready(error)) => return Poll::Ready(error),
            None => {}
        }
        if let (Some(reason), None) = (self.0.end(), &sending.line) {
            return Poll::Ready(Err(closed(reason)));
        }
        match std::mem::take(&mut sending.unreported) {
            // Without a line there is nothing to flush.
            0 => Poll::Ready(Ok(())),
            lost => Poll::Ready(Err(SendError::Lost(lost))),
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let mut sending = lock(&self.0.sending);
        if !std::mem::replace(&mut sending.is_closing, true) {
            drop(sending);
            self.0.leave();
            sending = lock(&self.0.sending);
        }
        match self.on_line(&mut sending, |line| line.poll_close(cx)) {
            Some(Poll::Pending) => {
                self.0.register_sender(cx.waker());
                Poll::Pending
            }
            Some(Poll::Ready(closed)) => {
                sending.unflushed = 0;
                Poll::Ready(closed)
            }
            None => match std::mem::take(&mut sending.unreported) {
                0 => Poll::Ready(Ok(())),
                lost => Poll::Ready(Err(SendError::Lost(lost))),
            },
        }
    }

    fn unwritten(&self) -> usize {
        let sending = lock(&self.0.sending);
        sending.unwritten + sending.line.as_ref().map_or(0, Sender::unwritten)
    }

    fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut sending = lock(&self.0.sending);
        self.0.register_sender(cx.waker());
        sending.line.as_mut().map_or(Poll::Ready(()), |line| line.poll_acknowledged(cx))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut sending = lock(&self.0.sending);
        self.0.register_sender(cx.waker());
        match (self.0.end(), &mut sending.line) {
            (None, _) => Poll::Pending,
            (Some(_), None) => Poll::Ready(()),
            (Some(_), Some(line)) => line.poll_gone(cx),
        }
    }

    fn outgoing(&self) -> Outgoing {
        lock(&self.0.sending).line.as_ref().map_or_else(Outgoing::default, |line| line.outgoing())
    }
}

impl Drop for LinkSender {
    fn drop(&mut self) {
        self.0.leave();
        let line = lock(&self.0.sending).take();
        drop(line);
    }
}
