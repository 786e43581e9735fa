//! The requests without a response, of the client and of the agent.

use std::collections::HashMap;

use tieline_proto::jsonrpc::{Answers, Id, Request};

use super::connection::AcpLimits;
use crate::Refusal;
use crate::answered::take_answered;

/// What each request costs in addition to its id.
const EACH: usize = 128;

/// A request of the client.
#[derive(Debug)]
pub(super) struct Call {
    /// The session that it belongs to.
    pub(super) session: Option<Box<str>>,
    pub(super) effect: Effect,
}

/// What a successful response means for the sessions of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The result names a new session.
    Opens,
    /// The session exists now. The response goes to the stream of the connection.
    Loads,
    /// The session exists now.
    Resumes,
    /// The session exists no longer.
    Closes,
    None,
}

impl Effect {
    pub(super) fn of(method: &str) -> Self {
        match method {
            "session/new" | "session/fork" => Self::Opens,
            "session/load" => Self::Loads,
            "session/resume" => Self::Resumes,
            "session/close" | "session/delete" => Self::Closes,
            _ => Self::None,
        }
    }
}

/// The requests that have no response yet.
#[derive(Debug, Default)]
pub(super) struct Calls {
    of_client: HashMap<Id, Call>,
    client_bytes: usize,
    /// Those of the agent, and the streams that they were sent on.
    of_agent: HashMap<Id, u64>,
    agent_bytes: usize,
}

fn cost(id: &[u8], session: Option<&str>) -> usize {
    id.len() + session.map_or(0, str::len)
}

impl Calls {
    /// Adds a request of the client.
    ///
    /// # Errors
    /// 400: the id is in use. 503: there are too many requests, or their ids are too long together.
    pub(super) fn begin(
        &mut self,
        request: &Request,
        call: Call,
        limits: &AcpLimits,
    ) -> Result<(), Refusal> {
        let id = Id::from(request.id());
        if self.of_client.contains_key(&id) {
            return Err(Refusal::invalid("another request with this id has no response yet"));
        }
        let bytes = self.client_bytes + cost(&id, call.session.as_deref());
        if self.of_client.len() >= limits.calls || bytes > limits.id_bytes && !self.is_empty() {
            let text = "too many requests of this connection have no response yet; try again later";
            return Err(Refusal::new(503, text));
        }
        self.client_bytes = bytes;
        self.of_client.insert(id, call);
        Ok(())
    }

    /// Removes the request of the client that is answered. Returns its id as the client wrote it.
    pub(super) fn settle(&mut self, answers: Answers<'_>) -> Option<(Id, Call)> {
        let (id, call) = take_answered(&mut self.of_client, answers)?;
        self.client_bytes -= cost(&id, call.session.as_deref());
        Some((id, call))
    }

    /// Returns a request of the client.
    pub(super) fn get(&self, id: &[u8]) -> Option<&Call> {
        self.of_client.get(&Id::from(id))
    }

    /// Adds a request of the agent. Beyond the limits it is not remembered: then the session of the response is
    /// not checked, and a cancellation goes to the stream of the connection.
    pub(super) fn ask(&mut self, id: &[u8], stream: u64, limits: &AcpLimits) {
        let bytes = self.agent_bytes + id.len();
        let is_known = self.of_agent.contains_key(&Id::from(id));
        if self.of_agent.len() < limits.calls && bytes <= limits.id_bytes && !is_known {
            self.agent_bytes = bytes;
            self.of_agent.insert(Id::from(id), stream);
        }
    }

    /// Returns the stream on which a request of the agent was sent.
    pub(super) fn asked(&self, id: &[u8]) -> Option<u64> {
        self.of_agent.get(&Id::from(id)).copied()
    }

    /// Removes a request of the agent that the client has answered.
    pub(super) fn answered(&mut self, id: &[u8]) {
        if self.of_agent.remove(&Id::from(id)).is_some() {
            self.agent_bytes -= id.len();
        }
    }

    /// Returns whether no request of the client waits for its response.
    pub(super) fn is_empty(&self) -> bool {
        self.of_client.is_empty()
    }

    pub(super) fn held_bytes(&self) -> usize {
        let count = self.of_client.len() + self.of_agent.len();
        self.client_bytes + self.agent_bytes + EACH * count
    }

    #[cfg(test)]
    pub(super) fn check_exact(&self) {
        let of_client = self.of_client.iter().map(|(id, it)| cost(id, it.session.as_deref()));
        assert_eq!(self.client_bytes, of_client.sum::<usize>());
        assert_eq!(self.agent_bytes, self.of_agent.keys().map(|id| id.len()).sum::<usize>());
    }
}
