//! Log events belong to the span of their call or request, and traces are sent with calls.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::within;
use tieline_rpc::{Dialect, Peer, PeerOptions, Router, TraceParent};
use tieline_transport::memory_pair;
use tracing_subscriber::fmt::MakeWriter;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Returns a router whose methods return their parameters, immediately or later, and log an event.
fn echo() -> Router {
    Router::new()
        .request("now", |params: Value, _| {
            tracing::info!("handled now");
            std::future::ready(Ok(params))
        })
        .request("later", |params: Value, _| async move {
            tokio::task::yield_now().await;
            tracing::info!("handled later");
            Ok(params)
        })
}

fn peers(dialect: Dialect) -> Peer {
    let (near, far) = memory_pair();
    let (peer, driver) = Peer::new(near, (), PeerOptions::new(dialect));
    let (_, answering) = Peer::new(far, echo(), PeerOptions::new(dialect));
    tokio::spawn(driver);
    tokio::spawn(answering);
    peer
}

/// The parts run one after the other, because tracing caches for the whole process whether a callsite is
/// enabled. A test without a log must not disable it in between.
#[tokio::test]
async fn trace_is_sent_and_logged() {
    trace_is_sent_only_if_the_dialect_supports_it().await;
    handler_log_events_belong_to_the_request_and_the_callers_trace().await;
}

async fn handler_log_events_belong_to_the_request_and_the_callers_trace() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let peer = peers(Dialect::MCP);
    for (method, logged) in [("now", "handled now"), ("later", "handled later")] {
        let call = peer.method(method).params(json!({ "a": 1 })).trace(TRACE.parse().unwrap());
        let answer: Value = within(call.call()).await.unwrap();
        assert_eq!(answer, json!({ "a": 1, "_meta": { "traceparent": TRACE } }));
        let text = log.text();
        let line = text.lines().find(|line| line.contains(logged)).expect(&text);
        assert!(line.contains(&format!("request{{method=\"{method}\" id=")), "{line}");
        assert!(line.contains(&format!("trace={TRACE}}}")), "{line}");
    }
}

async fn trace_is_sent_only_if_the_dialect_supports_it() {
    let trace: TraceParent = TRACE.parse().unwrap();
    let traced = json!({ "_meta": { "traceparent": TRACE } });
    for (dialect, params, expected) in [
        (Dialect::ACP, json!({}), traced.clone()),
        (Dialect::STRICT, json!({}), json!({})),
        (Dialect::LSP, json!({}), json!({})),
        (Dialect::MCP, json!([1]), json!([1])),
        (Dialect::MCP, traced.clone(), traced),
    ] {
        let peer = peers(dialect);
        let answer: Value =
            within(peer.method("now").params(params).trace(trace).call()).await.unwrap();
        assert_eq!(answer, expected, "{}", dialect.name);
    }
}
