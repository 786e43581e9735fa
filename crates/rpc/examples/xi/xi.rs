//! The xi-core editor: the parts of its front-end protocol for which types are useful (xi-editor
//! documentation, "Frontend protocol").
//!
//! This module shows how to build a typed client for one program on a [`Peer`]: a handle with methods, a
//! handler that forwards notifications, and an option for the dialect.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tieline_rpc::{
    Answer, CallError, Dialect, Driver, ErrorObject, Handler, NotSent, Notification, Outcome, Peer,
    PeerOptions, Request,
};
use tieline_transport::{Channel, Reset};
use tokio::sync::mpsc;

/// How many events may be queued before the core has to wait.
const EVENTS: usize = 256;

/// A handle to a running xi-core. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Xi {
    peer: Peer,
}

impl Xi {
    /// Sends the initial `client_started` to the core on the other end of `channel`. Nothing happens unless
    /// the driver is polled. Over a Link, every core that replaces a lost one gets the same message
    /// ([`Event::Restarted`]).
    ///
    /// Receive the events or drop them: while too many are queued, the core has to wait.
    ///
    /// # Errors
    /// Fails if the line has ended.
    pub(crate) async fn start<C: Channel>(
        channel: C,
    ) -> Result<(Self, Events, Driver<C, Forward>), NotSent> {
        let (forward, events) = mpsc::channel(EVENTS);
        let options = PeerOptions::new(Dialect::XI);
        let (peer, driver) = Peer::new(channel, Forward(forward), options);
        peer.notify("client_started", json!({})).await?;
        Ok((Self { peer }, Events(events), driver))
    }

    /// Opens an empty view.
    ///
    /// # Errors
    /// See [`Peer::call`].
    pub(crate) async fn new_view(&self) -> Result<View, CallError> {
        self.view(json!({})).await
    }

    /// Opens a view of the file at `path`, which need not exist yet.
    ///
    /// # Errors
    /// See [`Peer::call`].
    pub(crate) async fn open(&self, path: impl AsRef<Path>) -> Result<View, CallError> {
        self.view(json!({ "file_path": path.as_ref().to_string_lossy() })).await
    }

    async fn view(&self, params: Value) -> Result<View, CallError> {
        let peer = self.peer.on_this_line();
        let id = peer.call("new_view", params).await?;
        Ok(View { peer, id })
    }

    /// Returns the peer, for methods that have no wrapper here.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// A view of a buffer.
#[derive(Clone, Debug)]
pub(crate) struct View {
    peer: Peer,
    id: String,
}

impl View {
    /// Returns the id that the core gave to the view.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Inserts `text` at the cursor.
    ///
    /// # Errors
    /// Fails if the message was not queued.
    pub(crate) async fn insert(&self, text: &str) -> Result<(), NotSent> {
        self.edit("insert", json!({ "chars": text })).await
    }

    /// Reports to the core which lines are visible.
    ///
    /// # Errors
    /// Fails if the message was not queued.
    pub(crate) async fn scroll(&self, first: u64, last: u64) -> Result<(), NotSent> {
        self.edit("scroll", json!([first, last])).await
    }

    /// Sends any other edit: `move_up`, `delete_backward`, `undo`, …
    ///
    /// # Errors
    /// Fails if the message was not queued.
    pub(crate) async fn edit(&self, method: &str, params: Value) -> Result<(), NotSent> {
        let edit = json!({ "view_id": self.id, "method": method, "params": params });
        self.peer.notify("edit", edit).await
    }

    /// Saves the buffer and waits until the core is done. A failure to save is reported as an
    /// [`Event::Alert`].
    ///
    /// # Errors
    /// See [`Peer::call`].
    pub(crate) async fn save(&self, path: impl AsRef<Path>) -> Result<(), CallError> {
        let path = path.as_ref().to_string_lossy();
        self.peer.notify("save", json!({ "view_id": self.id, "file_path": path })).await?;
        // The core handles messages one at a time, so its response to this call follows the save.
        self.peer.call::<Value>("get_config", json!({ "view_id": self.id })).await.map(drop)
    }

    /// Returns the whole text.
    ///
    /// # Errors
    /// See [`Peer::call`].
    pub(crate) async fn contents(&self) -> Result<String, CallError> {
        self.peer.call("debug_get_contents", json!({ "view_id": self.id })).await
    }

    /// Closes the view.
    ///
    /// # Errors
    /// Fails if the message was not queued.
    pub(crate) async fn close(self) -> Result<(), NotSent> {
        self.peer.notify("close_view", json!({ "view_id": self.id })).await
    }
}

/// A notification from the core.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub(crate) enum Event {
    /// Lines of a view have changed.
    Update {
        /// The view.
        view_id: String,
        /// The operations on the line cache, unparsed.
        update: Value,
    },
    /// The cursor should be visible.
    ScrollTo {
        /// The view.
        view_id: String,
        /// The line, counted from 0.
        line: u64,
        /// The column in bytes of UTF-8, counted from 0.
        col: u64,
    },
    /// Settings of a view have changed.
    ConfigChanged {
        /// The view.
        view_id: String,
        /// The settings that changed.
        changes: Value,
    },
    /// Over a Link, the core was lost and has been replaced. Its views and unsaved changes are gone:
    /// open the files again. Messages for old views are not sent ([`NotSent::Reset`]).
    Restarted {
        /// The number of the core; the first is 1.
        epoch: u64,
    },
    /// A message for the user.
    Alert(String),
    /// Any other notification.
    Other {
        /// Its method.
        method: String,
        /// Its parameters.
        params: Value,
    },
}

impl Event {
    fn of(notification: &Notification) -> Self {
        #[derive(Deserialize)]
        struct Update {
            view_id: String,
            update: Value,
        }
        #[derive(Deserialize)]
        struct ScrollTo {
            view_id: String,
            line: u64,
            col: u64,
        }
        #[derive(Deserialize)]
        struct ConfigChanged {
            view_id: String,
            changes: Value,
        }
        #[derive(Deserialize)]
        struct Alert {
            msg: String,
        }
        let params = notification.params().unwrap_or(b"null");
        let method = notification.method();
        let known = match &*method {
            "update" => serde_json::from_slice(params)
                .map(|Update { view_id, update }| Self::Update { view_id, update }),
            "scroll_to" => serde_json::from_slice(params)
                .map(|ScrollTo { view_id, line, col }| Self::ScrollTo { view_id, line, col }),
            "config_changed" => serde_json::from_slice(params)
                .map(|ConfigChanged { view_id, changes }| Self::ConfigChanged { view_id, changes }),
            "alert" => serde_json::from_slice(params).map(|Alert { msg }| Self::Alert(msg)),
            _ => serde_json::from_slice(params)
                .map(|params| Self::Other { method: method.clone().into_owned(), params }),
        };
        // A known event with unknown parameters is still delivered.
        known.unwrap_or_else(|_| Self::Other {
            params: serde_json::from_slice(params).unwrap_or_default(),
            method: method.into_owned(),
        })
    }
}

/// The notifications from the core, in order.
#[derive(Debug)]
pub(crate) struct Events(mpsc::Receiver<Event>);

impl Events {
    /// Waits for the next event. Returns `None` once the line has ended and all events have been
    /// received. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// Forwards notifications from the core to [`Events`].
#[derive(Debug)]
pub(crate) struct Forward(mpsc::Sender<Event>);

impl Handler for Forward {
    fn request(&self, request: Request, _: &Peer) -> Answer<Outcome> {
        Answer::Now(Err(ErrorObject::method_not_found(&request.method())))
    }

    fn reset(&self, reset: Reset, peer: &Peer) -> Answer<()> {
        let (events, peer) = (self.0.clone(), peer.clone());
        Answer::later(async move {
            // If this fails, the new core is lost as well.
            if peer.notify("client_started", json!({})).await.is_ok() {
                let _ = events.send(Event::Restarted { epoch: reset.epoch }).await;
            }
        })
    }

    fn notification(&self, notification: Notification, _: &Peer) -> Answer<()> {
        let event = match self.0.try_send(Event::of(&notification)) {
            Err(mpsc::error::TrySendError::Full(event)) => event,
            // The event was sent, or the receiver has been dropped.
            _ => return Answer::Now(()),
        };
        let events = self.0.clone();
        Answer::later(async move {
            let _ = events.send(event).await;
        })
    }
}
