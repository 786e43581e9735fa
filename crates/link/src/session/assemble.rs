//! The session, its assembly, and the backing of its control.

use std::sync::{Arc, OnceLock, Weak};

use tieline_transport::{
    Backing, BoxFuture, Channel, ChildExit, CloseReason, ConnectionInfo, Control, ControlBuilder,
    DynConnector, Health, PeerIdentity, Principal, Traffic, TransportError,
};

use super::driver::Driver;
use super::lifeline::Lifeline;
use super::receiver::SessionReceiver;
use super::sender::SessionSender;
use super::shared_session::SharedSession;
use crate::link::{Link, LinkOptions};
use crate::state::{LineState, LineStates, StatePublisher};

/// A [`Channel`] that survives the loss of its connections: messages in flight are sent again on the next
/// one, and none is delivered twice.
///
/// *Within a session every message is delivered once, in order, or the session ends with an error that says
/// what was delivered.* If the server no longer knows a client's session, the client begins a new one: its
/// receiver returns [`Reset`](tieline_transport::Incoming::Reset) with
/// [`SessionLost`](tieline_transport::CloseReason::SessionLost) as the cause, and its sender reports once
/// how many messages may be [lost](tieline_transport::SendError::Lost). Until the receiver has returned
/// that reset, the sender accepts no messages, so a message meant for the lost session never reaches the
/// new one.
///
/// While there is no connection, messages are accepted until the replay buffer is full; then senders wait.
/// [`settle`](SessionSender::settle) waits until the other end has acknowledged all messages.
///
/// Dropping both halves ends the session at once, and informs the other end if that is possible without
/// waiting. If the sender was [closed](tieline_transport::SenderExt::close) first, the sent messages may
/// still arrive: the session continues in the background, as long as the runtime does, until the other
/// end has acknowledged them or the grace period is over.
pub struct Session {
    /// The receiver is dropped before the sender, so that dropping a whole session does not first end
    /// one direction.
    receiver: SessionReceiver,
    sender: SessionSender,
    control: Control,
    states: LineStates,
}

impl Session {
    /// Returns the states from now on. Call this before splitting the session; the result outlives it.
    pub fn states(&self) -> LineStates {
        self.states.clone()
    }
}

impl Channel for Session {
    type Sender = SessionSender;
    type Receiver = SessionReceiver;

    fn control(&self) -> &Control {
        &self.control
    }

    fn split(self) -> (SessionSender, SessionReceiver) {
        (self.sender, self.receiver)
    }
}

/// Assembles a session over the first connection of `connector`.
pub(super) async fn assemble(
    shared: Arc<SharedSession>,
    connector: Arc<dyn DynConnector>,
) -> Result<Session, TransportError> {
    let options = LinkOptions { recovery: shared.options.recovery, is_carrier: true };
    let publisher = StatePublisher::first(LineState::Connecting { attempt: 1 });
    let link = Link::connect_as(connector, options, publisher).await?;
    let (of_link, states, link_shared) = (link.control().clone(), link.states(), link.shared());
    let mut capabilities = of_link.capabilities();
    capabilities.half_close = true;
    capabilities.notices_hangup = true;
    capabilities.is_session = true;
    let control = ControlBuilder {
        kind: of_link.info().kind,
        endpoint: of_link.endpoint().clone().resumable(),
        peer: of_link.peer(),
        capabilities,
        profile: of_link.profile(),
        backing: Arc::new(SessionBacking {
            shared: Arc::downgrade(&shared),
            total: shared.total.clone(),
            link: of_link.clone(),
        }),
    };
    let control = control.build();
    let (sender, receiver) = link.split();
    shared.set_link((sender, receiver), (link_shared, of_link), control.clone());
    let task = tokio::spawn(Driver::new(shared.clone())).abort_handle();
    let lifeline = Arc::new(Lifeline { shared: shared.clone(), task });
    let sender = SessionSender::new(shared.clone(), lifeline.clone());
    let receiver = SessionReceiver::new(shared, lifeline);
    Ok(Session { sender, receiver, control, states })
}

/// The backing of the session's control. It does not keep the session alive.
struct SessionBacking {
    shared: Weak<SharedSession>,
    total: Arc<OnceLock<Traffic>>,
    link: Control,
}

impl Backing for SessionBacking {
    fn health(&self) -> Health {
        self.link.health()
    }

    fn peer(&self) -> Option<PeerIdentity> {
        self.link.peer()
    }

    fn principal(&self) -> Option<Principal> {
        self.link.principal()
    }

    fn count(&self, info: &mut ConnectionInfo) {
        let of_link = self.link.info();
        info.last_activity = info.last_activity.max(of_link.last_activity);
        info.last_received = info.last_received.max(of_link.last_received);
        match (self.total.get(), self.shared.upgrade()) {
            (Some(total), _) => total.add_to(info),
            (None, Some(shared)) => {
                let state = shared.state();
                shared.count(&state).add_to(info);
                info.session = Some(Box::new(state.info()));
            }
            (None, None) => {}
        }
    }

    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let (shared, link) = (self.shared.clone(), self.link.clone());
        Box::pin(async move {
            if let Some(shared) = shared.upgrade() {
                shared.send_farewell();
            }
            let exit = link.stop().await.child_exit().cloned();
            if let Some(shared) = shared.upgrade() {
                shared.finish(CloseReason::ByUs);
            }
            exit
        })
    }

    fn abort(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.finish(CloseReason::ByUs);
        }
    }
}
