//! The routing of the program's messages.

use std::time::Instant;

use bytes::Bytes;
use tieline_proto::Fault;
use tieline_proto::jsonrpc::{
    Answers, CallId, INTERNAL_ERROR, INVALID_REQUEST, Invalid, InvalidProblem, MAX_ID,
    METHOD_NOT_FOUND, Message, Notification, Request, Response, answers_in_text, elements, locate,
    write_error, write_result,
};

use super::{Asked, Call, ClientId, Hub, Kind, MAX_ASKED, MAX_COMPARED, Output};

impl Hub {
    /// Handles a message from the program.
    pub(in crate::shared) fn program_message(&mut self, message: Bytes) {
        match self.classify(message.clone(), true) {
            Message::Batch(_) => {
                for element in elements(&message).unwrap_or_default() {
                    let element = self.classify(element, false);
                    self.one_program_message(element);
                }
            }
            one => self.one_program_message(one),
        }
    }

    fn one_program_message(&mut self, message: Message) {
        match message {
            Message::Response(response) => self.answered(&response),
            Message::Request(request) => self.program_request(&request),
            Message::Notification(notification) => self.program_notification(&notification),
            Message::Invalid(invalid) => self.program_invalid(&invalid),
            Message::Batch(_) => {}
        }
    }

    /// Settles the call of a message that was lost on its way from the program.
    pub(in crate::shared) fn lost(&mut self, fault: &Fault) {
        let answers: Vec<Option<CallId>> = answers_in_text(fault.head(), true)
            .into_iter()
            .map(|answers| self.find(answers))
            .collect();
        let why = fault.to_string();
        answers.into_iter().flatten().for_each(|id| self.lose_answer(id, &why));
    }

    /// Settles the call of a message that the program's line cannot carry.
    pub(in crate::shared) fn not_sent(&mut self, message: &Bytes, why: &str) {
        match self.classify(message.clone(), false) {
            Message::Request(request) => {
                let id = self.find(Answers::Call(request.id()));
                let why = format!("the request cannot be passed on: {why}");
                id.into_iter().for_each(|id| self.answer_with_error(id, &why));
            }
            Message::Response(response) => {
                let why = format!("the client's response was lost: {why}");
                self.refuse_program(response.id(), INTERNAL_ERROR, &why);
            }
            Message::Notification(_) | Message::Batch(_) | Message::Invalid(_) => {}
        }
    }

    /// Returns the call that a response belongs to.
    fn find(&mut self, answers: Answers<'_>) -> Option<CallId> {
        if let Answers::Call(id) = answers {
            if let Some(id) = CallId::parse(id) {
                return self.calls.get(id).map(|_| id);
            }
        }
        if self.calls.len() > MAX_COMPARED {
            return None;
        }
        let ids = self.calls.iter_mut().map(|(id, _)| (id, id.to_string()));
        answers.find(ids)
    }

    fn answered(&mut self, response: &Response) {
        let Some(id) = self.find(response.answers()) else {
            tracing::debug!("dropped a response from the program: no request waits for it");
            return;
        };
        let Some(Call { reply, kind, .. }) = self.end(id) else { return };
        match (kind, reply) {
            (Kind::Opening, reply) => self.opening_answered(reply, response),
            (Kind::Subscribing(name), reply) => self.thing_answered(&name, reply, response),
            (Kind::Level, reply) => self.level_answered(reply, response),
            (Kind::Plain | Kind::Listening, None) => {}
            (Kind::Plain, Some(reply)) => {
                let response = response.rewritten(&self.dialect, &reply.id, None);
                self.reply(&reply, response);
            }
            (Kind::Listening, Some(reply)) => {
                let result = response.outcome().unwrap_or_default();
                let tag = self.rules.listening.and_then(|it| locate(result, it.tag).ok().flatten());
                let tag = tag.map(|tag| (tag, &*reply.id));
                let response = response.rewritten(&self.dialect, &reply.id, tag);
                self.reply(&reply, response);
            }
        }
    }

    /// Answers a call whose response was lost.
    fn lose_answer(&mut self, id: CallId, why: &str) {
        self.answer_with_error(id, &format!("the response was lost: {why}"));
    }

    /// Settles a call as if the program had responded with an error.
    fn answer_with_error(&mut self, id: CallId, why: &str) {
        let mut buffer = [0; 20];
        let lost = write_error(&self.dialect, id.digits(&mut buffer), INTERNAL_ERROR, why, None);
        if let Message::Response(response) = self.classify(lost.into(), false) {
            self.answered(&response);
        }
    }

    fn program_invalid(&mut self, invalid: &Invalid) {
        let why = invalid.problem().to_string();
        let answers: Vec<_> =
            invalid.answers().into_iter().map(|answers| self.find(answers)).collect();
        match invalid.problem() {
            InvalidProblem::Json(error) if !error.is_limit() => {
                if let Some(unreported) = self.not_json.admit(Instant::now()) {
                    let start = invalid.message().get(..SHOWN).unwrap_or(invalid.message());
                    let start = start.escape_ascii();
                    tracing::warn!(
                        unreported,
                        "the program wrote output that is not JSON ({why}): {start}"
                    );
                }
            }
            _ => {}
        }
        if !invalid.may_be_response() {
            self.refuse_program(invalid.id(), INVALID_REQUEST, &why);
        }
        answers.into_iter().flatten().for_each(|id| self.lose_answer(id, &why));
    }

    fn refuse_program(&mut self, id: &[u8], code: i64, why: &str) {
        let error = write_error(&self.dialect, id, code, why, None);
        self.out.push_back(Output::Refusal(error.into()));
    }

    /// Passes a request from the program to the only client that it can be meant for.
    fn program_request(&mut self, request: &Request) {
        let method = request.method();
        let id = request.id();
        if self.rules.answered.iter().any(|it| *it == method) {
            let result = write_result(&self.dialect, id, b"{}");
            self.out.push_back(Output::Refusal(result.into()));
            return;
        }
        let client = match self.addressee() {
            Ok(client) => client,
            Err(why) => return self.refuse_program(id, INTERNAL_ERROR, why),
        };
        let need = self.rules.needs.iter().enumerate().find(|(_, (needs, _))| *needs == method);
        if let Some((place, (_, capability))) = need {
            let declared = self.clients.get(&client).map_or(0, |it| it.capabilities);
            if (declared >> place) & 1 == 0 {
                let why = format!("the client has not declared the capability `{capability}`");
                return self.refuse_program(id, METHOD_NOT_FOUND, &why);
            }
        }
        if self.asked.get(id).is_some() {
            return self.refuse_program(id, INVALID_REQUEST, "this id is already in use");
        }
        if self.asked.len() >= MAX_ASKED {
            let why =
                format!("too many requests wait for clients: the limit of {MAX_ASKED} is reached");
            return self.refuse_program(id, self.dialect.gone, &why);
        }
        let token = self.token(request).ok().flatten();
        if token.is_some_and(|token| token.len() > MAX_ID) {
            let why = format!("the progress token is longer than {MAX_ID} bytes");
            return self.refuse_program(id, INVALID_REQUEST, &why);
        }
        let token = token.map(Bytes::copy_from_slice);
        self.asked.insert(id, Asked { client, token });
        self.out.push_back(Output::Client(client, request.message().clone()));
    }

    /// Returns the client that a request from the program is meant for: the one with calls in flight or,
    /// if no client has any, the only one.
    fn addressee(&self) -> Result<ClientId, &'static str> {
        let mut busy = self.clients.iter().filter(|(_, it)| !it.calls.is_empty());
        let mut all = self.clients.keys().filter(|client| self.is_ready(**client));
        match (busy.next(), busy.next()) {
            (Some((client, _)), None) => Ok(*client),
            (Some(_), Some(_)) => Err(
                "several clients share this program and have calls in flight, so it is not known which of them the \
                 request is for",
            ),
            (None, _) => match (all.next(), all.next()) {
                (Some(client), None) => Ok(*client),
                (Some(_), Some(_)) => Err(
                    "several clients share this program and none has a call in flight, so it is not known which of \
                     them the request is for",
                ),
                (None, _) => Err("no client is connected"),
            },
        }
    }

    /// Passes a notification from the program to the clients that it concerns.
    fn program_notification(&mut self, notification: &Notification) {
        let method = notification.method();
        let params = notification.params().unwrap_or_default();
        if let Some(cancel) = self.dialect.cancel.filter(|cancel| cancel.method == method) {
            let id = locate(params, &[cancel.id]).ok().flatten().unwrap_or_default();
            let Some(asked) = self.asked.get(id) else { return };
            self.out.push_back(Output::Client(asked.client, notification.message().clone()));
            if cancel.code.is_none() {
                self.asked.remove(id);
            }
            return;
        }
        if let Some(style) = self.dialect.progress.filter(|style| style.method == method) {
            return self
                .pass_to_owner(notification, params, &[style.token], |call| call.token.as_deref());
        }
        let rules = self.rules.listening;
        if let Some(rules) = rules.filter(|rules| !matches!(locate(params, rules.tag), Ok(None))) {
            return self.pass_to_owner(notification, params, rules.tag, |call| {
                call.reply.as_ref().map(|reply| &*reply.id)
            });
        }
        let clients: Vec<ClientId> = match self.concerned(&method, params) {
            Some(clients) => clients.into_iter().collect(),
            None => self.clients.keys().copied().collect(),
        };
        for client in clients {
            if self.is_ready(client) && self.wants(client, &method, params) {
                self.out.push_back(Output::Client(client, notification.message().clone()));
            }
        }
    }

    /// Passes a notification to the client whose call it names at `path`, with the client's own token.
    fn pass_to_owner(
        &mut self,
        notification: &Notification,
        params: &[u8],
        path: &[&str],
        token: impl FnOnce(&Call) -> Option<&[u8]>,
    ) {
        let Ok(Some(named)) = locate(params, path) else { return };
        let Some(call) = self.find(Answers::Call(named)).and_then(|id| self.calls.get(id)) else {
            tracing::debug!("dropped a notification from the program about a call that is over");
            return;
        };
        if let (Some(reply), Some(token)) = (&call.reply, token(call)) {
            let message = notification.rewritten(named, token);
            self.out.push_back(Output::Client(reply.client, message));
        }
    }
}

/// How many bytes of a message are logged.
const SHOWN: usize = 200;
