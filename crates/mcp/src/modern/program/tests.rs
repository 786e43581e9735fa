//! Tests of the state of a program with messages from both sides.

mod legacy;
mod modern;
mod random;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_proto::json::Limits;

use super::*;
use crate::modern::{Era, METHOD, ModernHead, NAME};
use crate::{PROTOCOL_VERSION, Posted};

const NO_CAPABILITIES: &str = "{}";
const ALL_CAPABILITIES: &str = r#"{"elicitation":{},"sampling":{},"roots":{}}"#;

/// Writes a request of the modern era. If `more` is not empty, it begins with a comma.
fn text(id: &str, method: &str, capabilities: &str, more: &str, in_meta: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{capabilities}{in_meta}}}{more}}}}}"#
    )
}

fn read(text: &str) -> ModernRequest {
    let posted = Posted::read(Bytes::copy_from_slice(text.as_bytes()), Limits::default()).unwrap();
    let Message::Request(request) = posted.messages[0].clone() else { panic!("{text}") };
    let name = ["name", "uri"].iter().find_map(|it| {
        tieline_proto::jsonrpc::member(request.params()?, it).and_then(crate::modern::json::string)
    });
    let method = request.method().into_owned();
    let mut headers = vec![(PROTOCOL_VERSION, "2026-07-28".to_owned()), (METHOD, method)];
    headers.extend(name.map(|name| (NAME, name.into_owned())));
    let head = ModernHead::of(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
    match Era::of(head, posted) {
        Ok(Era::Modern(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// Returns a request from a client without capabilities.
fn request(id: &str, method: &str, more: &str) -> ModernRequest {
    read(&text(id, method, NO_CAPABILITIES, more, ""))
}

fn call(id: &str, tool: &str) -> ModernRequest {
    request(id, "tools/call", &format!(r#","name":"{tool}""#))
}

/// A program, and the current time.
struct Bench {
    program: ModernProgram,
    now: Duration,
}

impl Bench {
    fn new(era: Option<ProgramEra>) -> Self {
        Self::within(era, ModernLimits::default())
    }

    fn within(era: Option<ProgramEra>, limits: ModernLimits) -> Self {
        let mut next = 0;
        let tokens = move || {
            next += 1;
            Some(format!("state-{next}"))
        };
        let now = Duration::ZERO;
        let program = ModernProgram::new(now, limits, era, ToolHeaders::default(), tokens);
        Self { program, now }
    }

    /// Posts a request, which must be accepted.
    #[track_caller]
    fn post(&mut self, request: &ModernRequest) -> u64 {
        let call = self.program.post(self.now, request).unwrap();
        self.check();
        call
    }

    fn says(&mut self, message: &str) {
        self.program.from_program(self.now, Bytes::copy_from_slice(message.as_bytes()));
        self.check();
    }

    /// Takes the messages for the program.
    fn sent(&mut self) -> Vec<String> {
        let sent = std::iter::from_fn(|| self.program.outgoing());
        sent.map(|message| String::from_utf8(message.to_vec()).unwrap()).collect()
    }

    fn answer(&mut self, call: u64) -> ModernAnswer {
        let answer = self.program.answer(self.now, call);
        self.check();
        answer
    }

    /// Returns the status and the body of a response, which must be JSON.
    #[track_caller]
    fn json(&mut self, call: u64) -> (u16, String) {
        match self.answer(call) {
            ModernAnswer::Json(status, body) => {
                self.program.close(self.now, call);
                (status, String::from_utf8(body.to_vec()).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Returns the messages of a stream, and whether it has ended.
    #[track_caller]
    fn events(&mut self, call: u64) -> (Vec<String>, bool) {
        assert_eq!(self.answer(call), ModernAnswer::Events);
        let (mut out, mut events) = (BytesMut::new(), Vec::new());
        loop {
            match self.program.next(call, &mut out) {
                ModernNext::Event => {
                    let event = String::from_utf8(out.split().to_vec()).unwrap();
                    let data = event.strip_prefix("event: message\ndata: ").unwrap();
                    events.push(data.trim_end().to_owned());
                }
                ModernNext::Wait => return (events, false),
                ModernNext::End => return (events, true),
            }
        }
    }

    fn close(&mut self, call: u64) {
        self.program.close(self.now, call);
        self.check();
    }

    /// Advances the time, and handles timeouts.
    fn later(&mut self, time: Duration) {
        self.now += time;
        self.program.expire(self.now);
        self.check();
    }

    /// Checks that the counted bytes are right.
    fn check(&self) {
        let program = &self.program;
        let held: usize = program.calls.values().map(Call::held).sum();
        assert_eq!(program.held, held);
        let outgoing: usize = program.outgoing.iter().map(Bytes::len).sum();
        assert_eq!(program.outgoing_bytes, outgoing);
        for number in &program.queued {
            assert!(program.calls[number].request().is_some(), "{number}");
        }
    }
}
