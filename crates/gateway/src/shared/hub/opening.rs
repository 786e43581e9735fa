//! The handshake: the program receives that of the first client, and the other clients receive its
//! result.

use std::collections::VecDeque;

use bytes::Bytes;
use tieline_proto::jsonrpc::{
    INVALID_REQUEST, Notification, Request, Response, locate, member, write_notification,
};

use super::{ClientId, Hub, Kind, Output, ReplyTo};

/// The progress of a client's handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    New,
    /// The client has sent its opening request, and perhaps its confirmation without waiting for the
    /// response.
    Asked { is_confirmed: bool },
    /// The client has received its response.
    Opened { is_confirmed: bool },
}

/// The progress of the program's handshake.
#[derive(Default)]
pub(super) struct Opening {
    state: State,
    /// The confirmation was sent to the program.
    is_confirmed: bool,
    /// Clients that wait for the result.
    waiting: VecDeque<(ReplyTo, Request)>,
}

#[derive(Default)]
enum State {
    #[default]
    Closed,
    /// The request from this client is in flight.
    Asked(ClientId),
    Open(Bytes),
}

impl Opening {
    /// Returns the number of bytes of the result.
    pub(super) fn held(&self) -> usize {
        match &self.state {
            State::Open(result) => result.len(),
            State::Closed | State::Asked(_) => 0,
        }
    }

    pub(super) fn forget(&mut self, client: ClientId) {
        self.waiting.retain(|(reply, _)| reply.client != client);
    }
}

impl Hub {
    /// Handles a client's opening request.
    pub(super) fn open(&mut self, reply: ReplyTo, request: Request) {
        let capabilities = self.capabilities(&request);
        let Some(client) = self.clients.get_mut(&reply.client) else { return };
        if client.stage != Stage::New {
            return self.refuse(&reply, INVALID_REQUEST, "this client is already initialized");
        }
        client.stage = Stage::Asked { is_confirmed: false };
        client.capabilities = capabilities;
        self.try_open(reply, request);
    }

    fn try_open(&mut self, reply: ReplyTo, request: Request) {
        match &self.opening.state {
            State::Closed => {
                let client = reply.client;
                if self.forward(reply, &request, Kind::Opening) {
                    self.opening.state = State::Asked(client);
                } else if let Some(client) = self.clients.get_mut(&client) {
                    client.stage = Stage::New;
                }
            }
            State::Asked(_) => {
                if self.begin_wait(&reply, &request) {
                    self.opening.waiting.push_back((reply, request));
                }
            }
            State::Open(result) => {
                let result = result.clone();
                self.opened(reply.client);
                self.reply_result(&reply, &result);
                self.follow_level();
            }
        }
    }

    /// Returns which capabilities the client has declared, of those that the program's requests need.
    fn capabilities(&self, request: &Request) -> u64 {
        let params = request.params().unwrap_or_default();
        let declared = locate(params, &["capabilities"]).ok().flatten().unwrap_or_default();
        let mut bits = 0;
        for (place, (_, needed)) in self.rules.needs.iter().enumerate() {
            let is_there = member(declared, needed).is_some_and(|it| it != b"null");
            bits |= u64::from(is_there) << place;
        }
        bits
    }

    fn opened(&mut self, client: ClientId) {
        let confirms = self.handshake().is_some_and(|rules| rules.confirmation.is_some());
        if let Some(client) = self.clients.get_mut(&client) {
            let is_early = client.stage == Stage::Asked { is_confirmed: true };
            client.stage = Stage::Opened { is_confirmed: is_early || !confirms };
        }
    }

    /// Handles the program's response to the opening request. `reply` is `None` if its client has left.
    pub(super) fn opening_answered(&mut self, reply: Option<ReplyTo>, response: &Response) {
        let waiting: Vec<_> = self.opening.waiting.drain(..).collect();
        self.opening.state = match response.outcome() {
            Ok(result) => State::Open(Bytes::copy_from_slice(result)),
            Err(_) => State::Closed,
        };
        if let Some(reply) = reply {
            match response.outcome() {
                Ok(_) => self.opened(reply.client),
                Err(_) => {
                    if let Some(client) = self.clients.get_mut(&reply.client) {
                        client.stage = Stage::New;
                    }
                }
            }
            let response = response.rewritten(&self.dialect, &reply.id, None);
            self.reply(&reply, response);
        }
        // After an error, the next client's request is tried.
        for (reply, request) in waiting {
            if self.end_wait(&reply, &request) {
                self.try_open(reply, request);
            }
        }
        self.confirm_for_early_clients();
        self.follow_level();
    }

    /// Handles a client's confirmation. The program gets the first one.
    pub(super) fn confirm(&mut self, client: ClientId, notification: &Notification) {
        let Some(it) = self.clients.get_mut(&client) else { return };
        let asks = matches!(self.opening.state, State::Asked(first) if first == client);
        match &mut it.stage {
            Stage::New => return,
            Stage::Asked { is_confirmed } | Stage::Opened { is_confirmed } => *is_confirmed = true,
        }
        let is_open = matches!(self.opening.state, State::Open(_));
        if (asks || is_open) && !std::mem::replace(&mut self.opening.is_confirmed, true) {
            self.out.push_back(Output::Program(notification.message().clone()));
        }
        self.follow_level();
    }

    /// Sends the confirmation for clients that did not wait for the response, if the client that sent
    /// the opening request has left.
    fn confirm_for_early_clients(&mut self) {
        let confirmation = self.handshake().and_then(|rules| rules.confirmation);
        let (Some(method), State::Open(_)) = (confirmation, &self.opening.state) else { return };
        let is_ready =
            self.clients.values().any(|it| it.stage == Stage::Opened { is_confirmed: true });
        if is_ready && !std::mem::replace(&mut self.opening.is_confirmed, true) {
            let message = write_notification(&self.dialect, method, None);
            self.out.push_back(Output::Program(message.into()));
        }
    }

    /// Returns whether a client has completed its handshake.
    pub(super) fn is_ready(&self, client: ClientId) -> bool {
        let client = self.clients.get(&client);
        client.is_some_and(|it| it.stage == Stage::Opened { is_confirmed: true })
    }
}
