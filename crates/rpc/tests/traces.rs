//! What is logged belongs to its call or its request, and a trace goes with a call to the other side.

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

/// Answers with its parameters, at once or later, and logs meanwhile.
fn echo() -> Router {
    Router::new()
        .request("now", |params: Value, _| {
            tracing::info!("it was asked");
            std::future::ready(Ok(params))
        })
        .request("later", |params: Value, _| async move {
            tokio::task::yield_now().await;
            tracing::info!("it has thought");
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

/// One after the other: which places are logged at all is a matter of the whole process, and another
/// test's having no log must not decide it meanwhile.
#[tokio::test]
async fn a_trace_is_told_and_logged() {
    a_trace_goes_only_where_the_dialect_has_a_place_for_it().await;
    what_a_handler_logs_belongs_to_its_request_and_to_the_callers_trace().await;
}

async fn what_a_handler_logs_belongs_to_its_request_and_to_the_callers_trace() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let peer = peers(Dialect::MCP);
    for (method, logged) in [("now", "it was asked"), ("later", "it has thought")] {
        let call = peer.method(method).params(json!({ "a": 1 })).trace(TRACE.parse().unwrap());
        let answer: Value = within(call.call()).await.unwrap();
        assert_eq!(answer, json!({ "a": 1, "_meta": { "traceparent": TRACE } }));
        let text = log.text();
        let line = text.lines().find(|line| line.contains(logged)).expect(&text);
        assert!(line.contains(&format!("request{{method=\"{method}\" id=")), "{line}");
        assert!(line.contains(&format!("trace={TRACE}}}")), "{line}");
    }
}

async fn a_trace_goes_only_where_the_dialect_has_a_place_for_it() {
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
