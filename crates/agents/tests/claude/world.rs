//! The real Claude CLI, with a server on loopback that replaces the service and responds as the test
//! wants.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tieline_agents::claude::Options;
use tieline_testkit::executable;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::fixture;

/// The response of the model.
#[derive(Clone)]
pub(crate) enum Reply {
    Text(String),
    Tool(&'static str, Value),
    /// A response that starts with this text and never finishes.
    Endless(&'static str),
    /// A failure of the service with this status.
    Fails(u16),
}

/// A request to the model.
pub(crate) struct ModelRequest(Value);

impl ModelRequest {
    /// Returns all text of the newest message from the user.
    pub(crate) fn text(&self) -> String {
        self.blocks().filter_map(|block| block.get("text")?.as_str().map(str::to_owned)).collect()
    }

    /// Returns the text of the tool result, if the newest message has one.
    pub(crate) fn tool_result(&self) -> Option<String> {
        let mut blocks = self.blocks();
        let result = blocks.find(|block| block["type"] == "tool_result")?;
        Some(result["content"].to_string())
    }

    /// Returns how many times the model has responded before.
    pub(crate) fn turns(&self) -> usize {
        self.messages().iter().filter(|message| message["role"] == "assistant").count()
    }

    pub(crate) fn body(&self) -> &Value {
        &self.0
    }

    fn messages(&self) -> &[Value] {
        self.0["messages"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    fn blocks(&self) -> impl Iterator<Item = Value> {
        // The program appends a reminder of its own to the user's text.
        let newest = self.messages().iter().rfind(|message| message["role"] == "user").cloned();
        let blocks = match newest.map(|mut newest| newest["content"].take()) {
            Some(Value::String(text)) => vec![json!({ "type": "text", "text": text })],
            Some(Value::Array(blocks)) => blocks,
            _ => Vec::new(),
        };
        blocks.into_iter()
    }
}

/// A home directory for the program, and the service. Both are removed on drop.
pub(crate) struct World {
    home: TempDir,
    url: String,
    program: PathBuf,
    _server: JoinSet<()>,
}

impl World {
    /// Creates a world whose model responds with the result of `respond`.
    pub(crate) async fn new(
        respond: impl Fn(&ModelRequest) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let home = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::new(respond)));
        for below in ["project", "config"] {
            fs::create_dir(home.path().join(below)).unwrap();
        }
        // The script writes its process id before it becomes the program, so that a test can kill the
        // program.
        let program = home.path().join("claude");
        let real = real_program();
        let script = format!(
            "#!/bin/sh\necho $$ > '{}'\nexec '{}' \"$@\"\n",
            home.path().join("pid").display(),
            real.display()
        );
        executable::write(&program, &script);
        Self { home, url, program, _server: server }
    }

    pub(crate) fn project(&self) -> PathBuf {
        self.home.path().join("project")
    }

    pub(crate) fn pid(&self) -> i32 {
        let pid = fs::read_to_string(self.home.path().join("pid")).unwrap();
        pid.trim().parse().unwrap()
    }

    /// Returns options for a program with an empty environment, which can reach only the server.
    pub(crate) fn options(&self) -> Options {
        let config = self.home.path().join("config");
        let env = [
            ("HOME", self.home.path().as_os_str()),
            ("CLAUDE_CONFIG_DIR", config.as_os_str()),
            ("ANTHROPIC_BASE_URL", self.url.as_ref()),
            ("ANTHROPIC_API_KEY", "none".as_ref()),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".as_ref()),
            ("DISABLE_AUTOUPDATER", "1".as_ref()),
            ("DISABLE_TELEMETRY", "1".as_ref()),
            ("DISABLE_ERROR_REPORTING", "1".as_ref()),
            // With retries, a failure would take minutes.
            ("CLAUDE_CODE_MAX_RETRIES", "0".as_ref()),
            ("NO_PROXY", "127.0.0.1".as_ref()),
            ("no_proxy", "127.0.0.1".as_ref()),
        ]
        .into_iter()
        .map(|(name, value): (&str, &OsStr)| (name, value.to_owned()))
        .collect();
        Options {
            program: Some(self.program.clone()),
            cwd: Some(self.project()),
            env,
            setting_sources: Some(Vec::new()),
            ..Options::default()
        }
    }
}

/// Returns the path of the program in the package for this platform. The file that npm links as `claude`
/// is a stub if install scripts did not run.
fn real_program() -> PathBuf {
    let packages = fixture("TIELINE_NODE_FIXTURES", "node_modules/@anthropic-ai");
    let programs =
        fs::read_dir(&packages).unwrap().map(|entry| entry.unwrap().path().join("claude"));
    let mut programs: Vec<_> = programs.filter(|program| program.is_file()).collect();
    // If both the glibc and the musl program are installed, the one for glibc sorts first.
    programs.sort();
    programs.into_iter().next().expect("a package of the program for this platform")
}

async fn serve(
    listener: TcpListener,
    respond: Arc<impl Fn(&ModelRequest) -> Reply + Send + Sync + 'static>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let respond = respond.clone();
        connections.spawn(async move {
            // A killed program leaves its request incomplete.
            let _ = answer(stream, &*respond).await;
        });
    }
}

async fn answer(
    mut stream: TcpStream,
    respond: &impl Fn(&ModelRequest) -> Reply,
) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let (mut first, mut length) = (String::new(), 0);
    read.read_line(&mut first).await?;
    loop {
        let mut header = String::new();
        read.read_line(&mut header).await?;
        match header.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap();
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    read.read_exact(&mut body).await?;
    let is_question = first.starts_with("POST /v1/messages") && !first.contains("count_tokens");
    let asked = is_question.then(|| ModelRequest(serde_json::from_slice(&body).unwrap()));
    let reply = match &asked {
        // Before the program uses a model, it tests the model in a request without a stream.
        Some(asked) if asked.0["stream"] != true => return whole(&mut write, 200, message()).await,
        Some(asked) => respond(asked),
        None => Reply::Fails(404),
    };
    if let Reply::Fails(status) = reply {
        let error = json!({ "type": "error", "error": { "type": "x", "message": "it failed" } });
        return whole(&mut write, status, error).await;
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    write.write_all(head.as_bytes()).await?;
    for event in events(&reply) {
        let kind = event["type"].as_str().unwrap();
        write.write_all(format!("event: {kind}\ndata: {event}\n\n").as_bytes()).await?;
    }
    if matches!(reply, Reply::Endless(_)) {
        // The response stays open until the program closes the connection.
        read.read_u8().await?;
    }
    Ok(())
}

async fn whole(
    write: &mut (impl AsyncWrite + Unpin),
    status: u16,
    body: Value,
) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n");
    let rest = format!("Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    write.write_all((head + &rest).as_bytes()).await
}

fn message() -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "loopback", "content": [],
        "stop_reason": null, "stop_sequence": null,
        "usage": { "input_tokens": 1, "output_tokens": 1 },
    })
}

/// Returns the event stream of the Messages API (Anthropic API documentation, "Streaming messages").
fn events(reply: &Reply) -> Vec<Value> {
    let (block, delta, stop) = match reply {
        Reply::Tool(name, input) => (
            json!({ "type": "tool_use", "id": "toolu_1", "name": name, "input": {} }),
            json!({ "type": "input_json_delta", "partial_json": input.to_string() }),
            "tool_use",
        ),
        reply => {
            let text = match reply {
                Reply::Text(text) => text,
                Reply::Endless(text) => *text,
                _ => "",
            };
            let block = json!({ "type": "text", "text": "" });
            (block, json!({ "type": "text_delta", "text": text }), "end_turn")
        }
    };
    let end = json!({ "stop_reason": stop, "stop_sequence": null });
    let mut events = vec![
        json!({ "type": "message_start", "message": message() }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
    ];
    if !matches!(reply, Reply::Endless(_)) {
        events.extend([
            json!({ "type": "content_block_stop", "index": 0 }),
            json!({ "type": "message_delta", "delta": end, "usage": { "output_tokens": 5 } }),
            json!({ "type": "message_stop" }),
        ]);
    }
    events
}
