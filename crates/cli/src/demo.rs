//! The built-in agent: a small JSON-RPC 2.0 program on stdio, for demonstrations and tests.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tieline_rpc::{Answer, ErrorObject, Peer, PeerOptions, Router};
use tieline_transport::{Endpoint, Options, Registry};

use crate::report::Failure;

pub(crate) async fn run() -> Result<(), Failure> {
    let channel = Registry::new().connect(&Endpoint::stdio(), &Options::default()).await?;
    let (_peer, driver) = Peer::new(channel, agent(), PeerOptions::default());
    let reason = driver.await;
    if reason.is_clean() {
        return Ok(());
    }
    Err(Failure::other(format!("the line has ended: {reason}")))
}

fn agent() -> Router {
    Router::new()
        .raw_request("echo", |request, _| {
            let params = request.params().unwrap_or(b"null");
            Answer::Now(Ok(Bytes::copy_from_slice(params)))
        })
        .request("add", |params: Value, _| async move {
            let terms: Result<Vec<f64>, _> = serde_json::from_value(params);
            let wanted = |_| ErrorObject::invalid_params("expected an array of numbers");
            let sum: f64 = terms.map_err(wanted)?.iter().sum();
            let is_whole = sum.fract() == 0.0 && sum.abs() < 9e15;
            Ok(if is_whole { json!(sum as i64) } else { json!(sum) })
        })
        .request("sleep", |params: Value, _| async move {
            let milliseconds = number(&params, "ms")?;
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            Ok(json!({ "slept": milliseconds }))
        })
        .request("count", |params: Value, peer| async move {
            let to = number(&params, "to")?;
            for n in 1..=to {
                tell(&peer, "count", json!({ "n": n })).await?;
            }
            Ok(json!({ "counted": to }))
        })
        .request("flood", |params: Value, peer| async move {
            let bytes = number(&params, "bytes")?;
            let data = "x".repeat(1024);
            let messages = bytes.div_ceil(1024);
            for _ in 0..messages {
                tell(&peer, "flood", json!({ "data": data })).await?;
            }
            Ok(json!({ "flooded": messages * 1024 }))
        })
        .raw_request("crash", |_, _| {
            let _ = std::io::stderr().write_all(b"demo-agent: crashing as requested\n");
            std::process::exit(3)
        })
        .other_requests(|request, _| {
            let known = "the methods are echo, add [N, …], sleep {\"ms\": N}, count {\"to\": N}, \
                         flood {\"bytes\": N} and crash";
            let mut error = ErrorObject::method_not_found(&request.method());
            error.message = format!("{}; {known}", error.message).into();
            Answer::Now(Err(error))
        })
}

async fn tell(peer: &Peer, method: &str, params: Value) -> Result<(), ErrorObject> {
    peer.notify(method, params).await.map_err(ErrorObject::internal)
}

/// Returns the parameter `name`, given as `[n]` or `{"name": n}`.
fn number(params: &Value, name: &str) -> Result<u64, ErrorObject> {
    let value = params.get(name).or_else(|| params.get(0));
    let number = value.and_then(Value::as_u64);
    number.ok_or_else(|| {
        let wanted = format!("expected {{\"{name}\": N}} or [N] with a whole number N");
        ErrorObject::invalid_params(wanted)
    })
}
