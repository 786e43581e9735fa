//! Tests that each request is answered exactly once, whatever the server does.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tieline_proto::jsonrpc::member;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Head(usize, u16, bool),
    Body(usize, String),
    End(usize),
    Fail(usize, bool),
    Wait(f64),
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..6_usize;
    let id = 0..8_u64;
    let messages = prop_oneof![
        4 => id.clone().prop_map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)),
        1 => id.clone().prop_map(|id| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"2025-11-25"}}}}"#)
        }),
        1 => id.clone().prop_map(|id| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":1,"message":"m"}}}}"#)
        }),
        1 => id.clone().prop_map(|id| format!(r#"{{"id":{id},"result":1,"error":2}}"#)),
        1 => id.prop_map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"roots/list"}}"#)),
        1 => Just(r#"{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}"#.to_owned()),
        1 => Just("[1,".to_owned()),
    ];
    let statuses = prop_oneof![4 => Just(200_u16), 1 => Just(202), 2 => Just(404), 1 => Just(500)];
    prop_oneof![
        6 => (0..6_usize).prop_map(Step::Send),
        6 => (stream.clone(), statuses, any::<bool>()).prop_map(|(at, status, is_stream)| {
            Step::Head(at, status, is_stream)
        }),
        6 => (stream.clone(), messages, any::<bool>()).prop_map(|(at, message, has_id)| {
            let id = if has_id { "id: e\n" } else { "" };
            Step::Body(at, format!("{id}data: {message}\n\n"))
        }),
        3 => stream.clone().prop_map(Step::End),
        2 => (stream, any::<bool>()).prop_map(|(at, is_sent)| Step::Fail(at, is_sent)),
        2 => (0.0..20.0).prop_map(Step::Wait),
    ]
}

/// What the host has sent and received, and which requests are in flight.
#[derive(Default)]
struct Seen {
    sent: BTreeSet<String>,
    answers: BTreeMap<String, usize>,
    running: BTreeSet<u64>,
    /// Those of them whose response has begun.
    begun: BTreeSet<u64>,
    has_ended: bool,
}

impl Seen {
    fn run(&mut self, line: &mut Line) {
        for step in line.steps() {
            let mut words = step.split(' ');
            match (words.next().unwrap(), words.next()) {
                ("POST" | "GET" | "DELETE", Some(number)) => {
                    let number = number.parse().unwrap();
                    self.begun.remove(&number);
                    assert!(self.running.insert(number), "{step}");
                }
                ("stop", Some(number)) => {
                    assert!(self.running.remove(&number.parse().unwrap()), "{step}");
                }
                ("deliver", _) => {
                    let message = step.strip_prefix("deliver ").unwrap().as_bytes();
                    if member(message, "method").is_none() {
                        let id =
                            String::from_utf8_lossy(member(message, "id").unwrap()).into_owned();
                        *self.answers.entry(id).or_default() += 1;
                    }
                }
                ("end", None) => self.has_ended = true,
                _ => {}
            }
        }
    }

    fn stream(&self, at: usize) -> Option<u64> {
        let length = self.running.len().max(1);
        self.running.iter().nth(at % length).copied()
    }
}

proptest! {
    #[test]
    fn each_request_is_answered_exactly_once(steps in prop::collection::vec(step(), 0..80)) {
        let (mut line, mut seen) = (Line::new(), Seen::default());
        for (count, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send(kind) => {
                    let id = format!("{}", count + 10);
                    let message = match kind {
                        0 => INITIALIZE.replace(r#""id":0"#, &format!(r#""id":{id}"#)),
                        1 => INITIALIZED.to_owned(),
                        2 => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"x","params":{{{META}}}}}"#),
                        3 => result(&id),
                        _ => call(&id),
                    };
                    if !matches!(kind, 1 | 3) {
                        seen.sent.insert(id);
                    }
                    line.send(&message);
                }
                Step::Head(at, status, is_stream) => {
                    if let Some(number) = seen.stream(at).filter(|it| seen.begun.insert(*it)) {
                        let headers = if is_stream { EVENTS } else { JSON };
                        line.head(number, status, &[headers[0], ("mcp-session-id", "s")]);
                    }
                }
                Step::Body(at, text) => {
                    // Answers for the requests that there are.
                    let waiting = seen.sent.iter().find(|id| !seen.answers.contains_key(*id));
                    let id = waiting.cloned().unwrap_or_else(|| "1".to_owned());
                    if let Some(number) = seen.stream(at) {
                        line.body(number, &text.replace("\"id\":1", &format!("\"id\":{id}")));
                    }
                }
                Step::End(at) => {
                    if let Some(number) = seen.stream(at) {
                        seen.running.remove(&number);
                        line.event(number, ExchangeEvent::Ended);
                    }
                }
                Step::Fail(at, is_sent) => {
                    if let Some(number) = seen.stream(at) {
                        seen.running.remove(&number);
                        line.fail(number, is_sent);
                    }
                }
                Step::Wait(seconds) => line.wait(seconds),
            }
            seen.run(&mut line);
        }
        line.remote.end_input(line.now);
        for _ in 0..400 {
            seen.run(&mut line);
            if seen.has_ended {
                break;
            }
            for number in std::mem::take(&mut seen.running) {
                line.fail(number, true);
            }
            line.wait(60.0);
        }
        prop_assert!(seen.has_ended, "the line does not end");
        let once: BTreeMap<_, _> = seen.sent.into_iter().map(|id| (id, 1)).collect();
        prop_assert_eq!(seen.answers, once);
    }
}
