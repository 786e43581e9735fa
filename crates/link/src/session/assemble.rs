//! Assembling a session, and the backing of its control.

use std::sync::{Arc, OnceLock, Weak};

use tieline_transport::{
    Backing, BoxFuture, Channel, ChildExit, CloseReason, ConnectionInfo, Control, ControlBuilder,
    DynConnector, Health, PeerIdentity, Principal, Traffic, TransportError,
};
use tokio::task::AbortHandle;

use super::driver::Driver;
use super::shared::Shared;
use super::{Session, SessionReceiver, SessionSender};
use crate::link::{Link, LinkOptions};
use crate::state::{State, StatePublisher};

/// Assembles a session over the first connection of `connector`.
pub(super) async fn assemble(
    shared: Arc<Shared>,
    connector: Arc<dyn DynConnector>,
) -> Result<Session, TransportError> {
    let options = LinkOptions { recovery: shared.options.recovery, is_carrier: true };
    let told = StatePublisher::first(State::Connecting { attempt: 1 });
    let link = Link::connect_as(connector, options, told).await?;
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
        backing: Arc::new(Behind {
            shared: Arc::downgrade(&shared),
            total: shared.total.clone(),
            link: of_link.clone(),
        }),
    };
    let control = control.build();
    let (sender, receiver) = link.split();
    shared.carried((sender, receiver), (link_shared, of_link), control.clone());
    let task = tokio::spawn(Driver::new(shared.clone())).abort_handle();
    let lifeline = Arc::new(Lifeline { shared: shared.clone(), task });
    let sender = SessionSender::new(shared.clone(), lifeline.clone());
    let receiver = SessionReceiver::new(shared, lifeline);
    Ok(Session { sender, receiver, control, states })
}

/// Held by both halves. Dropping the last one ends the session.
pub(super) struct Lifeline {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if self.shared.leave() {
            self.task.abort();
        }
    }
}

/// The backing of the session's control. It does not keep the session alive.
struct Behind {
    shared: Weak<Shared>,
    total: Arc<OnceLock<Traffic>>,
    link: Control,
}

impl Backing for Behind {
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
                let core = shared.core();
                shared.count(&core).add_to(info);
                info.session = Some(Box::new(core.info()));
            }
            (None, None) => {}
        }
    }

    fn stop(&self) -> BoxFuture<'static, Option<ChildExit>> {
        let (shared, link) = (self.shared.clone(), self.link.clone());
        Box::pin(async move {
            if let Some(shared) = shared.upgrade() {
                shared.say_why();
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
