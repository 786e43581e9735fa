//! Results with `input_required`: the client is asked as earlier versions do, and the request is repeated with its
//! answers.

use bytes::Bytes;
use tieline_proto::jsonrpc::{
    Dialect, INTERNAL_ERROR, Id, Response, member, members, write_error, write_request,
};

use super::{Modern, Translated};
use crate::modern::json::{is_object, object, string};

/// How often a request is repeated.
const MAX_ROUNDS: u32 = 32;
/// How many questions one result may have.
const MAX_ASKED: usize = 32;

/// A request that may need the input of the client.
#[derive(Debug)]
pub(super) struct Round {
    method: String,
    params: Vec<u8>,
    /// How often it was repeated.
    number: u32,
    state: Option<Vec<u8>>,
    /// The answers so far: names and raw JSON.
    given: Vec<(String, Vec<u8>)>,
}

/// A question to the client.
#[derive(Debug)]
pub(super) struct Asked {
    /// The id of the request at the client that needs the answer.
    pub(super) call: Id,
    key: String,
    method: String,
}

impl Round {
    pub(super) fn new(method: &str, params: &[u8]) -> Self {
        let (method, params) = (method.to_owned(), params.to_vec());
        Self { method, params, number: 0, state: None, given: Vec::new() }
    }

    pub(super) fn held(&self) -> usize {
        let given: usize = self.given.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.params.len() + self.state.as_ref().map_or(0, Vec::len) + given
    }
}

impl Modern {
    /// Asks the client what the program needs for a request.
    pub(super) fn ask(&mut self, call: Id, result: &[u8], out: &mut Translated) {
        let Some(round) = self.rounds.get_mut(&call) else { return };
        round.number += 1;
        round.state = member(result, "requestState").map(<[u8]>::to_vec);
        round.given.clear();
        let needed = member(result, "inputRequests").and_then(members).unwrap_or_default();
        if round.number > MAX_ROUNDS || needed.len() > MAX_ASKED {
            return self.fail(&call, "the program asks too much", out);
        }
        for (key, request) in needed {
            let Some(method) = member(request, "method").and_then(string) else { continue };
            let id = self.id();
            let params = member(request, "params").unwrap_or(b"{}");
            let message = write_request(&Dialect::MCP, &id, &method, Some(params));
            out.to_client.push(Bytes::from(message));
            let (key, method) = (key.into_owned(), method.into_owned());
            self.asked.insert(id, Asked { call: call.clone(), key, method });
        }
        self.repeat_if_answered(&call, out);
    }

    /// Takes a response of the client.
    pub(super) fn input(&mut self, response: &Response, out: &mut Translated) {
        let Some(asked) = self.asked.remove(&Id::from(response.id())) else { return };
        let given = match response.outcome() {
            Ok(result) if is_object(result) => result.to_vec(),
            // The nearest that there is to an error.
            _ if asked.method == "elicitation/create" => br#"{"action":"cancel"}"#.to_vec(),
            Ok(_) => return self.fail(&asked.call, "the client's answer is not an object", out),
            Err(error) => {
                let message = member(error, "message").and_then(string).unwrap_or_default();
                let text = format!("the client refused {}: {message}", asked.method);
                return self.fail(&asked.call, &text, out);
            }
        };
        if let Some(round) = self.rounds.get_mut(&asked.call) {
            round.given.push((asked.key, given));
        }
        self.repeat_if_answered(&asked.call, out);
    }

    fn repeat_if_answered(&mut self, call: &Id, out: &mut Translated) {
        if self.asked.values().any(|asked| asked.call == *call) {
            return;
        }
        let Some(round) = self.rounds.get_mut(call) else { return };
        let given = std::mem::take(&mut round.given);
        let (method, params) = (round.method.clone(), round.params.clone());
        let state = round.state.take();
        let responses = object(given.iter().map(|(key, value)| (&**key, &value[..])));
        let mut more = vec![("inputResponses", &responses[..])];
        more.extend(state.as_ref().map(|state| ("requestState", &state[..])));
        let params = self.with_envelope(&params, &more);
        let id = self.id();
        let message = write_request(&Dialect::MCP, &id, &method, Some(&params));
        out.to_program.push(message.into());
        self.repeated.insert(id, call.clone());
    }

    fn fail(&mut self, call: &Id, text: &str, out: &mut Translated) {
        self.forget(call);
        out.to_client.push(write_error(&Dialect::MCP, call, INTERNAL_ERROR, text, None).into());
    }

    /// Forgets a request, and what the client is being asked for it.
    pub(super) fn forget(&mut self, call: &Id) {
        self.rounds.remove(call);
        self.asked.retain(|_, asked| asked.call != *call);
    }
}
