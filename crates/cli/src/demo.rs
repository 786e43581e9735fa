//! The built-in agent: a small JSON-RPC 2.0 program on stdio, for trying out and for tests.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use tieline_transport::{Channel, Incoming, Options, ReceiverExt, Registry, Sender, SharedSender};
use tokio::task::JoinSet;

use crate::report::Failure;

/// With so many calls under way, the next is not read before one has ended.
const MOST_CALLS: usize = 256;

pub(crate) async fn run() -> Result<(), Failure> {
    let options = Options { json: true, ..Options::default() };
    let endpoint = tieline_transport::Endpoint::stdio();
    let channel = Registry::new().connect(&endpoint, &options).await?;
    let (sender, mut receiver) = channel.split();
    let sender = SharedSender::new(sender);
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = calls.join_next() => {}
            incoming = receiver.recv(), if calls.len() < MOST_CALLS => match incoming {
                Incoming::Message(message) => {
                    let request = serde_json::from_slice(&message).unwrap_or_default();
                    calls.spawn(answer(request, sender.clone()));
                }
                Incoming::Fault(fault) => {
                    let parse_error = error(Value::Null, -32700, &format!("parse error: {fault}"));
                    say(&sender, parse_error).await;
                }
                _ => break,
            },
        }
    }
    // What was asked before the end of the input is answered.
    while calls.join_next().await.is_some() {}
    let _ = sender.close().await;
    Ok(())
}

/// Answers one request; a notification is carried out and not answered.
async fn answer<S: Sender>(request: Value, sender: SharedSender<S>) {
    let id = request.get("id").cloned();
    let params = request.get("params").unwrap_or(&Value::Null);
    let outcome = match request.get("method").and_then(Value::as_str) {
        Some(method) => call(method, params, &sender).await,
        None => Err((-32600, "not a request: it has no method")),
    };
    let is_request = !matches!(outcome, Err((-32600, _)));
    let id = match (id, is_request) {
        (Some(id), _) => id,
        (None, false) => Value::Null,
        (None, true) => return,
    };
    let answer = match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err((code, message)) => error(id, code, message),
    };
    say(&sender, answer).await;
}

type Outcome = Result<Value, (i32, &'static str)>;

async fn call<S: Sender>(method: &str, params: &Value, sender: &SharedSender<S>) -> Outcome {
    match method {
        "echo" => Ok(params.clone()),
        "add" => add(params),
        "sleep" => {
            let milliseconds = number(params, "ms")?;
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            Ok(json!({ "slept": milliseconds }))
        }
        "count" => {
            let to = number(params, "to")?;
            for n in 1..=to {
                say(sender, notification("count", json!({ "n": n }))).await;
            }
            Ok(json!({ "counted": to }))
        }
        "crash" => {
            let _ = std::io::stderr().write_all(b"demo-agent: crashing, as asked\n");
            std::process::exit(3)
        }
        "flood" => {
            let bytes = number(params, "bytes")?;
            let chunk = "x".repeat(1024);
            for _ in 0..bytes.div_ceil(1024) {
                say(sender, notification("flood", json!({ "data": chunk }))).await;
            }
            Ok(json!({ "flooded": bytes.div_ceil(1024) * 1024 }))
        }
        _ => Err((-32601, "no such method; there are echo, add, sleep, count, crash and flood")),
    }
}

fn add(params: &Value) -> Outcome {
    let numbers = match params {
        Value::Array(numbers) => numbers.iter().map(Value::as_f64).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let sum: f64 = numbers.ok_or((-32602, "params must be an array of numbers"))?.iter().sum();
    let whole = sum.fract() == 0.0 && sum.abs() < 9e15;
    Ok(if whole { json!(sum as i64) } else { json!(sum) })
}

/// The first parameter: `[n]` or `{"name": n}`.
fn number(params: &Value, name: &str) -> Result<u64, (i32, &'static str)> {
    let value = params.get(name).or_else(|| params.get(0));
    value.and_then(Value::as_u64).ok_or((-32602, "params must be a whole number"))
}

fn error(id: Value, code: i32, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

fn notification(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

/// A client that is gone needs to hear nothing.
async fn say<S: Sender>(sender: &SharedSender<S>, message: Value) {
    let _ = sender.send(message.to_string()).await;
}
