//! How a session begins whose program may only speak 2026-07-28.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::{
    Dialect, Message, Request, Response, classify, locate, member, write_request, write_result,
};

use super::{Modern, SessionTranslator, State};
use crate::modern::capabilities::Level;
use crate::modern::json::{object, quoted, string};
use crate::modern::{MODERN_VERSION, lists_modern_version, meta};
use crate::session::VERSIONS;

/// How many messages of the client may wait for the answer of the program.
pub(super) const MAX_HELD: usize = 64;

/// The id of the question.
const DISCOVER: &[u8] = b"\"tieline-discover\"";

/// The version that the client gets if it has asked for an unknown one.
const NEWEST: &str = "2025-11-25";

impl SessionTranslator {
    /// Takes a message of a program that has not answered `initialize`.
    pub(super) fn opened(&mut self, message: Bytes) {
        let State::Opening(initialize) = &self.state else { return };
        let response = response_to(&message, initialize.id());
        match response.as_ref().map(Response::outcome) {
            None => self.out.to_client.push(message),
            Some(Ok(_)) => {
                self.state = State::Same;
                self.out.to_client.push(message);
            }
            Some(Err(_)) => {
                let envelope = envelope(initialize.params().unwrap_or_default());
                let of_meta = object(envelope.iter().map(|(name, value)| (*name, &value[..])));
                let params = object([("_meta", &of_meta[..])]);
                let method = "server/discover";
                let question = write_request(&Dialect::MCP, DISCOVER, method, Some(&params));
                self.out.to_program.push(question.into());
                let (initialize, held) = (initialize.clone(), VecDeque::new());
                self.state = State::Asking { initialize, refusal: message, held };
            }
        }
    }

    /// Takes a message of a program that has not answered `server/discover`.
    pub(super) fn discovered(&mut self, message: Bytes) {
        let Some(response) = response_to(&message, DISCOVER) else {
            return self.out.to_client.push(message);
        };
        let State::Asking { initialize, refusal, held } = std::mem::take(&mut self.state) else {
            return;
        };
        match response.outcome() {
            Ok(result) if lists_modern_version(result, "supportedVersions") => {
                self.out.to_client.push(initialized(&initialize, result));
                let params = initialize.params().unwrap_or_default();
                self.state = State::Modern(Box::new(Modern::new(params, result)));
            }
            _ => {
                self.state = State::Same;
                self.out.to_client.push(refusal);
            }
        }
        for message in held {
            match &mut self.state {
                State::Modern(modern) => modern.take_from_client(message, &mut self.out),
                _ => self.out.to_program.push(message),
            }
        }
    }
}

fn response_to(message: &Bytes, id: &[u8]) -> Option<Response> {
    match classify(message.clone(), &Dialect::MCP, Limits::default()) {
        Message::Response(response) if response.id() == id => Some(response),
        _ => None,
    }
}

/// Returns what each request of 2026-07-28 says about its client, from the parameters of `initialize`.
fn envelope(params: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let capabilities = member(params, "capabilities").unwrap_or(b"{}");
    let mut envelope = vec![
        (meta::PROTOCOL_VERSION, quoted(MODERN_VERSION).into_bytes()),
        (meta::CLIENT_CAPABILITIES, capabilities.to_vec()),
    ];
    envelope.extend(member(params, "clientInfo").map(|info| (meta::CLIENT_INFO, info.to_vec())));
    envelope
}

/// Writes the response to `initialize` from the result of `server/discover`.
fn initialized(initialize: &Request, discovered: &[u8]) -> Bytes {
    let params = initialize.params().unwrap_or_default();
    let version = member(params, "protocolVersion").and_then(string);
    let version = version.filter(|version| VERSIONS.contains(&&**version));
    let version = quoted(version.as_deref().unwrap_or(NEWEST));
    let server = locate(discovered, &["_meta", meta::SERVER_INFO]).ok().flatten();
    let mut result = vec![
        ("protocolVersion", version.as_bytes()),
        ("capabilities", member(discovered, "capabilities").unwrap_or(b"{}")),
        ("serverInfo", server.unwrap_or(br#"{"name":"unknown","version":"0"}"#)),
    ];
    result.extend(member(discovered, "instructions").map(|it| ("instructions", it)));
    write_result(&Dialect::MCP, initialize.id(), &object(result)).into()
}

impl Modern {
    fn new(initialize: &[u8], discovered: &[u8]) -> Self {
        let capabilities = member(discovered, "capabilities").unwrap_or_default();
        let changes = [
            ("tools", "toolsListChanged"),
            ("prompts", "promptsListChanged"),
            ("resources", "resourcesListChanged"),
        ];
        let is_announced =
            |name: &str| locate(capabilities, &[name, "listChanged"]) == Ok(Some(b"true"));
        let changes = changes.into_iter().filter(|(name, _)| is_announced(name));
        // Programs of earlier versions also send log messages before a level was set.
        let level = member(capabilities, "logging").and_then(|_| Level::of(b"\"info\""));
        Self {
            envelope: envelope(initialize),
            level,
            changes: changes.map(|(_, filter)| filter).collect(),
            resources: BTreeSet::new(),
            listening: None,
            rounds: HashMap::new(),
            repeated: HashMap::new(),
            asked: HashMap::new(),
            next: 0,
        }
    }
}
