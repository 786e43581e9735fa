//! The parts of an HTTP request's head that ACP uses.

use crate::head::{LAST_EVENT_ID, Types, set_once};
use crate::{Ending, Refusal};

/// The header with the id of a connection, in requests and in the response to `initialize`.
pub const ACP_CONNECTION_ID: &str = "acp-connection-id";
/// The header with the id of a session.
pub const ACP_SESSION_ID: &str = "acp-session-id";

/// The headers of a request that ACP uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcpHead {
    types: Types,
    connection: Option<String>,
    session: Option<String>,
    last_event_id: Option<String>,
}

impl AcpHead {
    /// Reads the headers, given as lower-case names and values.
    ///
    /// # Errors
    /// 400: `Acp-Connection-Id`, `Acp-Session-Id` or `Last-Event-ID` is repeated, longer than 256 bytes, or not
    /// printable ASCII.
    pub fn of<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, Refusal> {
        let mut head = Self::default();
        for (name, value) in headers {
            let slot = match name {
                ACP_CONNECTION_ID => &mut head.connection,
                ACP_SESSION_ID => &mut head.session,
                LAST_EVENT_ID => &mut head.last_event_id,
                _ => {
                    head.types.read(name, value);
                    continue;
                }
            };
            set_once(slot, name, value)?;
        }
        Ok(head)
    }

    /// Checks that the body of a POST is JSON.
    ///
    /// # Errors
    /// 415: it is not.
    pub fn check_post(&self) -> Result<(), Refusal> {
        self.types.check_json()
    }

    /// Checks that a GET accepts event streams.
    ///
    /// # Errors
    /// 406: event streams are not accepted.
    pub fn check_get(&self) -> Result<(), Refusal> {
        self.types.check_events()
    }

    /// Returns the id of the connection, if the request has one.
    pub fn connection(&self) -> Option<&str> {
        self.connection.as_deref()
    }

    /// Returns the id of the connection of a request that must have one.
    ///
    /// # Errors
    /// 400: the request has no such id.
    pub fn need_connection(&self) -> Result<&str, Refusal> {
        self.connection().ok_or_else(|| {
            let text = "the header Acp-Connection-Id is missing; a connection begins with a POST of an \
                        initialize request";
            Refusal::new(400, text)
        })
    }

    /// Returns the id of the session, if the request has one.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    pub(super) fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref().filter(|id| !id.is_empty())
    }
}

impl Ending {
    /// Returns the response to a request to a connection that has ended for this reason, or ends before the
    /// response.
    pub fn acp_refusal(self) -> Refusal {
        match self {
            Self::Program => Refusal::new(502, "the agent ended without a response"),
            Self::Memory => Refusal::new(
                503,
                "the connection has ended, because too much memory is in use; initialize a new one",
            ),
            Self::Deleted | Self::Idle | Self::Evicted | Self::Resumed => {
                Refusal::unknown_connection()
            }
        }
    }
}

impl Refusal {
    /// Creates the refusal of the id of an ACP connection that is unknown or has ended: 404.
    pub fn unknown_connection() -> Self {
        Self::new(404, "this connection does not exist or has ended; initialize a new one")
    }
}
