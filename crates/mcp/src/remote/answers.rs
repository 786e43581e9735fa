//! Messages of the server.

use bytes::Bytes;
use tieline_proto::ExchangeStep;
use tieline_proto::Fault;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{Answers, Dialect, Id, Message, Response, classify, elements, member};

use super::failure::Failure;
use super::outgoing::Sort;
use super::stream::Task;
use super::{MAX_ASKED, Remote};

impl Remote {
    /// Takes a message of the server from the stream with this number.
    pub(super) fn take(&mut self, number: u64, message: Bytes) {
        let message = message.slice_ref(message.trim_ascii());
        match classify(message.clone(), &Dialect::MCP_2025_03_26, Limits::default()) {
            Message::Batch(_) => {
                for element in elements(&message).unwrap_or_default() {
                    self.take_one(number, element);
                }
            }
            _ => self.take_one(number, message),
        }
    }

    fn take_one(&mut self, number: u64, message: Bytes) {
        match classify(message.clone(), &Dialect::MCP, Limits::default()) {
            Message::Response(response) => self.answered(number, response),
            Message::Request(request) => {
                if self.is_modern_stream(number) {
                    return self.warn(format!(
                        "a request of the server was dropped, which protocol version 2026-07-28 does not \
                         allow: {}",
                        request.method()
                    ));
                }
                let id = Id::from(request.id());
                if self.has_input_ended {
                    return self.refuse(&id);
                }
                if self.asked.len() < MAX_ASKED {
                    self.asked.insert(id);
                }
                self.deliver(message);
            }
            Message::Notification(_) => self.deliver(message),
            Message::Invalid(invalid) => {
                let text = invalid.instead_of_response();
                let found: Vec<Id> = invalid
                    .answers()
                    .into_iter()
                    .filter_map(|answers| self.answered_on(number, answers))
                    .collect();
                for id in &found {
                    self.fail_one(id, &Failure::new(-31001, text.clone()));
                }
                if found.is_empty() {
                    match Fault::unless_json(&message, Limits::default()) {
                        Some(fault) => self.steps.push_back(ExchangeStep::Fault(fault)),
                        None => self.warn(format!("a message of the server was dropped: {text}")),
                    }
                }
                self.stop_if_done(number);
            }
            Message::Batch(_) => {}
        }
    }

    fn is_modern_stream(&self, number: u64) -> bool {
        match self.streams.get(&number).map(|stream| stream.task()) {
            Some(Task::Post(outgoing)) => outgoing.is_modern,
            _ => false,
        }
    }

    /// Returns the request of a stream that is answered.
    pub(super) fn answered_on(&self, number: u64, answers: Answers<'_>) -> Option<Id> {
        let owed = self.owed.iter().filter(|(_, owed)| owed.stream == number);
        answers.find(owed.map(|(id, _)| (id, &**id))).cloned()
    }

    fn answered(&mut self, number: u64, response: Response) {
        let here = self.answered_on(number, response.answers());
        // Some servers send responses on the general stream.
        let id = here.or_else(|| {
            let id = Id::from(response.id());
            self.owed.contains_key(&id).then_some(id)
        });
        let Some(id) = id else {
            return self.warn(format!(
                "a response of the server was dropped, because no request has its id {}",
                response.id().escape_ascii()
            ));
        };
        let Some(owed) = self.owed.remove(&id) else { return };
        let (sort, is_ok) = (owed.sort, response.outcome().is_ok());
        let params = self.params_of(owed.stream);
        match (sort, response.outcome()) {
            (Sort::Initialize | Sort::Reopen, Ok(result)) => self.opened(result),
            (Sort::Initialize, Err(_)) => self.not_opened(),
            (Sort::Reopen | Sort::Restore, Err(error)) => {
                let text = String::from_utf8_lossy(error).into_owned();
                self.owed.insert(id.clone(), owed);
                return self.fail_one(&id, &Failure::lost(text));
            }
            (Sort::Level | Sort::Subscribe { .. }, Ok(_)) => self.succeeded(sort, &params),
            _ => {}
        }
        let is_own = matches!(sort, Sort::Reopen | Sort::Restore);
        if !is_own {
            let tools = match (sort, is_ok && owed.is_modern) {
                (Sort::Tools { is_first }, true) => self.listed(&response, is_first),
                _ => None,
            };
            // The server may have written the id in another way.
            let change = tools.as_ref().map(|(old, new)| (&**old, &**new));
            let message = match response.id() == &id[..] && change.is_none() {
                true => Bytes::copy_from_slice(response.message()),
                false => response.rewritten(&Dialect::MCP, &id, change),
            };
            self.deliver(message);
        }
        self.stop_if_done(owed.stream);
    }

    fn params_of(&self, number: u64) -> Bytes {
        let Some(Task::Post(outgoing)) = self.streams.get(&number).map(|stream| stream.task())
        else {
            return Bytes::new();
        };
        let params = member(&outgoing.message, "params").unwrap_or_default();
        Bytes::copy_from_slice(params)
    }

    /// Learns which arguments of tools are repeated in headers. Returns the list and the list without the tools that
    /// declare them wrongly, if there are any.
    fn listed<'a>(
        &mut self,
        response: &'a Response,
        is_first: bool,
    ) -> Option<(&'a [u8], Vec<u8>)> {
        let result = response.outcome().ok()?;
        let invalid = self.tools.learn(result, is_first);
        if invalid.is_empty() {
            return None;
        }
        let tools = member(result, "tools")?;
        let kept = elements(&Bytes::copy_from_slice(tools)).unwrap_or_default();
        let kept = kept.into_iter().enumerate();
        let kept = kept.filter(|(at, _)| !invalid.iter().any(|tool| tool.at == *at));
        let kept: Vec<Bytes> = kept.map(|(_, tool)| tool).collect();
        for tool in &invalid {
            let (name, problem) = (&tool.name, &tool.problem);
            self.warn(format!("the tool {name:?} was removed from the list: {problem}"));
        }
        Some((tools, [b"[", &kept.join(&b',')[..], b"]"].concat()))
    }
}
