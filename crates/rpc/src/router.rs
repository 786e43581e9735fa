//! A handler made of closures, one per method.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tieline_proto::jsonrpc::{Notification, Request};
use tieline_transport::Reset;

use crate::error::ErrorObject;
use crate::handler::{Answer, Handler, Outcome};
use crate::peer::Peer;

type OnRequest = Arc<dyn Fn(Request, &Peer) -> Answer<Outcome> + Send + Sync>;
type OnReset = Arc<dyn Fn(Reset, &Peer) -> Answer<()> + Send + Sync>;
type OnNotification = Arc<dyn Fn(Notification, &Peer) -> Answer<()> + Send + Sync>;

/// A handler made of closures, one per method. Clones share them.
///
/// ```
/// use tieline_rpc::{ErrorObject, Router};
///
/// let router = Router::new()
///     .request("add", |(a, b): (f64, f64), _peer| async move { Ok(a + b) })
///     .request("greet", |name: [String; 1], _peer| async move {
///         match name[0].as_str() {
///             "" => Err(ErrorObject::invalid_params("the name is empty")),
///             name => Ok(format!("hello {name}")),
///         }
///     })
///     .notification("log", |line: serde_json::Value, _peer| async move { eprintln!("{line}") });
/// # drop(router);
/// ```
#[derive(Clone, Default)]
pub struct Router {
    requests: HashMap<String, OnRequest>,
    notifications: HashMap<String, OnNotification>,
    other_requests: Option<OnRequest>,
    other_notifications: Option<OnNotification>,
    on_reset: Option<OnReset>,
}

impl Router {
    /// Creates a router without methods: requests are answered with −32601, and notifications are
    /// ignored.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler for requests of `method`. Parameters that do not deserialize into `P` are answered with
    /// −32602; missing ones are read as `null`. An array fits a tuple, an array or a struct; an object fits
    /// a struct or a map; `serde_json::Value` accepts anything.
    ///
    /// The future is dropped when the request is cancelled or the line ends. A second handler for the same
    /// method replaces the first.
    #[must_use]
    pub fn request<P, R, F, A>(self, method: impl Into<String>, handler: F) -> Self
    where
        P: DeserializeOwned,
        R: Serialize,
        F: Fn(P, Peer) -> A + Send + Sync + 'static,
        A: Future<Output = Result<R, ErrorObject>> + Send + 'static,
    {
        self.raw_request(method, move |request, peer| {
            match serde_json::from_slice(request.params().unwrap_or(b"null")) {
                Err(error) => Answer::Now(Err(ErrorObject::invalid_params(error))),
                Ok(params) => {
                    let answer = handler(params, peer.clone());
                    Answer::later(async move { serialize(&answer.await?) })
                }
            }
        })
    }

    /// Adds a handler that receives requests of `method` unparsed.
    #[must_use]
    pub fn raw_request(
        mut self,
        method: impl Into<String>,
        handler: impl Fn(Request, &Peer) -> Answer<Outcome> + Send + Sync + 'static,
    ) -> Self {
        self.requests.insert(method.into(), Arc::new(handler));
        self
    }

    /// Adds a handler for notifications of `method`. If the parameters do not deserialize into `P`, an
    /// error is logged. The next notification waits until this one is handled; see
    /// [`Handler::notification`].
    #[must_use]
    pub fn notification<P, F, A>(self, method: impl Into<String>, handler: F) -> Self
    where
        P: DeserializeOwned,
        F: Fn(P, Peer) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        self.raw_notification(method, move |notification, peer| {
            match serde_json::from_slice(notification.params().unwrap_or(b"null")) {
                Ok(params) => Answer::later(handler(params, peer.clone())),
                Err(error) => {
                    tracing::warn!(
                        "invalid params in notification {}: {error}",
                        notification.method()
                    );
                    Answer::Now(())
                }
            }
        })
    }

    /// Adds a handler that receives notifications of `method` unparsed.
    #[must_use]
    pub fn raw_notification(
        mut self,
        method: impl Into<String>,
        handler: impl Fn(Notification, &Peer) -> Answer<()> + Send + Sync + 'static,
    ) -> Self {
        self.notifications.insert(method.into(), Arc::new(handler));
        self
    }

    /// Sets the handler that runs after a Link has replaced a lost line; see [`Handler::reset`].
    #[must_use]
    pub fn on_reset<F, A>(mut self, handler: F) -> Self
    where
        F: Fn(Reset, Peer) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let begin = move |reset, peer: &Peer| Answer::later(handler(reset, peer.clone()));
        self.on_reset = Some(Arc::new(begin));
        self
    }

    /// Sets the handler for requests whose method has none.
    #[must_use]
    pub fn other_requests(
        mut self,
        handler: impl Fn(Request, &Peer) -> Answer<Outcome> + Send + Sync + 'static,
    ) -> Self {
        self.other_requests = Some(Arc::new(handler));
        self
    }

    /// Sets the handler for notifications whose method has none.
    #[must_use]
    pub fn other_notifications(
        mut self,
        handler: impl Fn(Notification, &Peer) -> Answer<()> + Send + Sync + 'static,
    ) -> Self {
        self.other_notifications = Some(Arc::new(handler));
        self
    }
}

impl Handler for Router {
    fn serves(&self) -> bool {
        !self.requests.is_empty() || self.other_requests.is_some()
    }

    fn request(&self, request: Request, peer: &Peer) -> Answer<Outcome> {
        let handler = self.requests.get(&*request.method()).or(self.other_requests.as_ref());
        match handler {
            Some(handler) => handler(request, peer),
            None => Answer::Now(Err(ErrorObject::method_not_found(&request.method()))),
        }
    }

    fn notification(&self, notification: Notification, peer: &Peer) -> Answer<()> {
        let handler = self.notifications.get(&*notification.method());
        match handler.or(self.other_notifications.as_ref()) {
            Some(handler) => handler(notification, peer),
            None => Answer::Now(()),
        }
    }

    fn reset(&self, reset: Reset, peer: &Peer) -> Answer<()> {
        self.on_reset.as_ref().map_or(Answer::Now(()), |handler| handler(reset, peer))
    }
}

/// Serializes a result for a response.
pub(crate) fn serialize(result: &impl Serialize) -> Outcome {
    serde_json::to_vec(result).map(Bytes::from).map_err(ErrorObject::internal)
}
