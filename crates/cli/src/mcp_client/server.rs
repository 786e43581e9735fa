//! An MCP server that a command uses.

use bytes::Bytes;
use serde_json::{Value, json};
use tieline_proto::jsonrpc::{elements, locate, member};
use tieline_rpc::{CallError, Dialect, NotSent, Peer, PeerOptions, Router};
use tokio::task::JoinHandle;

use crate::args::{Logging, Mcp};
use crate::call::{explain, in_all};
use crate::children::StderrMode;
use crate::lookup;
use crate::report::{Failure, last_lines};

/// How many pages of a list are read.
const MAX_PAGES: usize = 1000;
/// How many entries of a list are read.
const MAX_ENTRIES: usize = 100_000;

pub(super) struct Server<'a> {
    args: &'a Mcp,
    stderr: StderrMode,
    peer: Peer,
    driver: JoinHandle<()>,
    /// What each request of version 2026-07-28 contains, if the server only speaks this version.
    meta: Option<Value>,
}

impl<'a> Server<'a> {
    /// Connects, and initializes the session. A server that refuses that is asked whether it speaks 2026-07-28.
    pub(super) async fn open(args: &'a Mcp, logging: &Logging) -> Result<Self, Failure> {
        let mut options = args.reach.options(logging);
        options.stop = in_all(options.stop.terminate);
        let registry = args.web.registry()?;
        let channel = lookup::connect(&registry, &args.endpoint, &options).await?;
        let router = Router::new().request("ping", |_: Option<Value>, _| async { Ok(json!({})) });
        let (peer, driver) = Peer::new(channel, router, PeerOptions::new(Dialect::MCP));
        let driver = tokio::spawn(async move {
            let _ = driver.await;
        });
        let stderr = args.reach.stderr(logging);
        let mut server = Self { args, stderr, peer, driver, meta: None };
        let client = json!({ "name": "tieline", "version": env!("CARGO_PKG_VERSION") });
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client
        });
        match server.call("initialize", &params).await {
            Ok(_) => {
                let sent = server.peer.notify_raw("notifications/initialized", None).await;
                sent.map_err(|why| Failure::other(format!("{}: {why}", args.endpoint.label())))?;
            }
            Err(error @ CallError::Remote(_)) => {
                let meta = json!({
                    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                    "io.modelcontextprotocol/clientCapabilities": {},
                    "io.modelcontextprotocol/clientInfo": client,
                });
                let discovered = server.call("server/discover", &json!({ "_meta": meta })).await;
                match discovered {
                    Ok(found) if lists_2026_07_28(&found) => server.meta = Some(meta),
                    _ => {
                        let failure = server.failed("initialize", &error);
                        server.close().await;
                        return Err(failure);
                    }
                }
            }
            Err(error) => {
                let failure = server.failed("initialize", &error);
                server.close().await;
                return Err(failure);
            }
        }
        Ok(server)
    }

    async fn call(&self, method: &str, params: &Value) -> Result<Bytes, CallError> {
        let params = params.to_string().into_bytes();
        self.peer.method(method).raw_params(params).call_raw().await
    }

    /// Sends a request and returns its result.
    pub(super) async fn ask(&self, method: &str, mut params: Value) -> Result<Bytes, Failure> {
        if let (Some(meta), Some(params)) = (&self.meta, params.as_object_mut()) {
            params.insert("_meta".into(), meta.clone());
        }
        let result = self.call(method, &params).await;
        let result = result.map_err(|error| self.failed(method, &error))?;
        if member(&result, "resultType") == Some(b"\"input_required\"") {
            let label = self.args.endpoint.label();
            return Err(Failure::other(format!(
                "{label}: {method}: the server asks for input, which this command cannot give; use an MCP client"
            )));
        }
        Ok(result)
    }

    /// Returns all entries of a list, as raw JSON.
    pub(super) async fn list(&self, method: &str, name: &str) -> Result<Vec<Bytes>, Failure> {
        let mut all: Vec<Bytes> = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let params = cursor.as_ref().map_or(json!({}), |cursor| json!({ "cursor": cursor }));
            let result = self.ask(method, params).await?;
            let entries = member(&result, name).map(Bytes::copy_from_slice);
            let Some(entries) = entries.as_ref().and_then(elements) else {
                return Err(self.wrong(method, &format!("the result has no list {name:?}")));
            };
            all.extend(entries);
            let next = member(&result, "nextCursor");
            let next = next.and_then(|next| serde_json::from_slice::<Option<String>>(next).ok());
            match next.flatten() {
                None => return Ok(all),
                next if next == cursor => {
                    return Err(
                        self.wrong(method, "the cursor of the next page is that of this page")
                    );
                }
                next => cursor = next,
            }
            if all.len() > MAX_ENTRIES {
                break;
            }
        }
        let text = format!("the list has more than {MAX_PAGES} pages or {MAX_ENTRIES} entries");
        Err(self.wrong(method, &text))
    }

    fn wrong(&self, method: &str, problem: &str) -> Failure {
        Failure::other(format!("{}: {method}: {problem}", self.args.endpoint.label()))
    }

    /// Returns the failure for a call, with its endpoint, method and cause.
    fn failed(&self, method: &str, error: &CallError) -> Failure {
        let sentence = format!("{}: {method}: {}", self.args.endpoint.label(), explain(error));
        let reason = match error {
            CallError::Unknown(reason) | CallError::NotSent(NotSent::Closed(reason)) => {
                Some(reason)
            }
            _ => None,
        };
        let hint = reason.and_then(|reason| reason.hint()).map(str::to_owned);
        let stderr = last_lines(reason.and_then(|reason| reason.child_exit()), self.stderr);
        Failure::Other { sentence, stderr, hint }
    }

    pub(super) async fn close(self) {
        self.peer.close().await;
        let _ = self.driver.await;
    }
}

fn lists_2026_07_28(discovered: &[u8]) -> bool {
    let versions = locate(discovered, &["supportedVersions"]).ok().flatten();
    let versions = versions.and_then(|it| serde_json::from_slice::<Vec<String>>(it).ok());
    versions.is_some_and(|versions| versions.iter().any(|version| version == "2026-07-28"))
}
