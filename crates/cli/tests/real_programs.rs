//! Tests with real programs as servers and as clients.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::{
    Program, Serve, Talk, content_length_server, request, server_everything, tieline,
    vscode_jsonrpc, xi_core,
};

/// A session of the xi editor core, which sends notifications between its responses.
struct Xi<T> {
    line: T,
    view: Value,
    last_id: u64,
}

impl<T: Talk> Xi<T> {
    fn open(mut line: T, file: Option<&Path>) -> Self {
        line.send(r#"{"method":"client_started","params":{}}"#);
        let params = file.map_or(json!({}), |file| json!({ "file_path": file }));
        let opened = line.call(&json!({ "id": 1, "method": "new_view", "params": params }));
        Self { line, view: opened["result"].clone(), last_id: 1 }
    }

    fn insert(&mut self, chars: &str) {
        let params = json!({
            "view_id": self.view, "method": "insert", "params": { "chars": chars }
        });
        self.line.send(&json!({ "method": "edit", "params": params }).to_string());
    }

    fn ask(&mut self, method: &str) -> Value {
        self.last_id += 1;
        let params = json!({ "view_id": self.view });
        let request = json!({ "id": self.last_id, "method": method, "params": params });
        self.line.call(&request)["result"].clone()
    }

    fn save(&mut self, file: &Path) {
        let params = json!({ "view_id": self.view, "file_path": file });
        self.line.send(&json!({ "method": "save", "params": params }).to_string());
        // Requests are handled in order, so the file is saved when this request is answered.
        self.ask("get_config");
    }
}

#[test]
fn xi_core_edits_and_saves_a_file() {
    let serve = Serve::start(["--", &xi_core()]);
    let file = serve.directory.path().join("text");
    fs::write(&file, "one\ntwo\n").unwrap();
    let mut xi = Xi::open(serve.client(), Some(&file));
    assert_eq!(xi.ask("debug_get_contents"), "one\ntwo\n");
    xi.insert("zero, \"quoted\", ünï\n");
    assert_eq!(xi.ask("debug_get_contents"), "zero, \"quoted\", ünï\none\ntwo\n");
    xi.save(&file);
    assert_eq!(fs::read_to_string(&file).unwrap(), "zero, \"quoted\", ünï\none\ntwo\n");
    drop(xi);
    serve.wait_nothing_left();
    serve.stop();
}

#[test]
fn two_clients_have_separate_editors() {
    let serve = Serve::start(["--", &xi_core()]);
    let files = ["first", "second"].map(|name| serve.directory.path().join(name));
    let mut cores = [Xi::open(serve.client(), None), Xi::open(serve.client(), None)];
    assert_eq!(serve.processes().len(), 2);
    for round in 0..20 {
        for (number, xi) in cores.iter_mut().enumerate() {
            xi.insert(&format!("{number}/{round} "));
        }
    }
    for (number, xi) in cores.iter_mut().enumerate() {
        xi.save(&files[number]);
        let expected: String = (0..20).map(|round| format!("{number}/{round} ")).collect();
        assert_eq!(fs::read_to_string(&files[number]).unwrap(), expected + "\n");
    }
    let [first, mut second] = cores;
    drop(first);
    serve.wait_processes(1);
    second.insert("still here");
    assert!(second.ask("debug_get_contents").as_str().unwrap().ends_with("still here"));
    drop(second);
    serve.wait_nothing_left();
    serve.stop();
}

/// Runs the handshake of an MCP client, and one call.
fn speak_mcp(line: &mut impl Talk) {
    let params = json!({
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": { "name": "tests", "version": "1" }
    });
    let initialized = line.call(&request(0, "initialize", params));
    assert_eq!(initialized["result"]["protocolVersion"], "2025-06-18", "{initialized}");
    line.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string());

    let tools = line.call(&request(1, "tools/list", json!({})));
    let tools = tools["result"]["tools"].as_array().unwrap();
    assert!(tools.iter().any(|tool| tool["name"] == "echo"), "{tools:?}");

    let params = json!({ "name": "echo", "arguments": { "message": "hi" } });
    let answer = line.call(&request(2, "tools/call", params));
    assert_eq!(answer["result"]["content"][0]["text"], "Echo: hi", "{answer}");
}

#[test]
fn an_mcp_server_is_used_through_a_socket() {
    let serve = Serve::start([&["--".to_owned()][..], &server_everything()].concat());
    let mut connect = Program::start(&mut serve.connect());
    speak_mcp(&mut connect);
    let finished = connect.finish();
    assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
    serve.wait_nothing_left();
    serve.stop();
}

#[test]
fn an_mcp_server_is_used_directly() {
    let exec = [&["connect".to_owned()][..], &[exec(&server_everything())]].concat();
    let mut connect = Program::start(&mut tieline(exec));
    speak_mcp(&mut connect);
    let finished = connect.finish();
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[test]
fn socat_is_a_client() {
    let serve = Serve::start::<&str>([]);
    let address = format!("UNIX-CONNECT:{}", serve.path().display());
    let request = r#"{"jsonrpc":"2.0","id":"a","method":"echo","params":{"b":[1,2]}}"#;
    // With `-t`, socat waits for the answer after the end of its input.
    let mut socat = Command::new("socat");
    socat.args(["-t", "30", "-", &address]);
    let finished = Program::run(&mut socat, format!("{request}\n"));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let answer: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(answer, json!({ "jsonrpc": "2.0", "id": "a", "result": { "b": [1, 2] } }));
    serve.stop();
}

#[test]
fn socat_is_a_server_for_connect() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socat.sock");
    let mut socat = Command::new("socat");
    socat.args(["-d", "-d", &format!("UNIX-LISTEN:{}", path.display()), "SYSTEM:rev"]);
    let mut socat = Program::start(&mut socat);
    socat.wait_stderr("listening on");
    let endpoint = format!("unix:{}", path.display());
    let finished = Program::run(&mut tieline(["connect", &endpoint]), "abc\ndef\n");
    assert_eq!((finished.code, &*finished.stdout), (Some(0), "cba\nfed\n"), "{finished:?}");
    assert_eq!(socat.wait().code, Some(0));
}

/// Checks that each message arrives as one line, although the server sends indented JSON.
fn speak_lines(line: &mut impl Talk) {
    assert_eq!(line.json()["method"], "ready");
    let answer = line.call(&request(1, "add", json!([2, 3])));
    assert_eq!(answer, json!({ "jsonrpc": "2.0", "id": 1, "result": 5 }));
    let params = json!({ "text": "two\nlines \"and\" ünï", "list": [[], {}, null, 1.5] });
    assert_eq!(line.call(&request(2, "echo", params.clone()))["result"], params);
    line.send(&request(3, "pretty", params.clone()).to_string());
    assert_eq!(line.json(), json!({ "jsonrpc": "2.0", "id": 3, "result": params }));
}

#[test]
fn bridge_converts_lines_for_a_content_length_server() {
    let server = format!("content-length+{}", exec(&content_length_server()));
    let mut bridge = Program::start(&mut tieline(["bridge", "stdio:", &server]));
    speak_lines(&mut bridge);
    bridge.send(r#"{"jsonrpc":"2.0","method":"exit"}"#);
    let finished = bridge.wait();
    assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
}

#[test]
fn serve_offers_lines_and_content_length_for_a_content_length_server() {
    let program = content_length_server();
    let args = [&["--framing", "content-length", "--"][..], &program.each_ref().map(|s| &**s)];
    let serve = Serve::in_framings(&["", "content-length+"], args.concat());
    let mut client = serve.client();
    speak_lines(&mut client);
    client.end_input();
    assert_eq!(client.rest(), b"");

    let bridge = ["bridge", "content-length+stdio:", &serve.endpoints[1]];
    assert_eq!(call_with_vscode_client(&bridge), "5\n");
    serve.wait_nothing_left();
    serve.stop();
}

#[test]
fn a_content_length_client_uses_a_lines_program() {
    let serve = Serve::start::<&str>([]);
    let bridge = ["bridge", "content-length+stdio:", serve.endpoint()];
    assert_eq!(call_with_vscode_client(&bridge), "5\n");
    serve.stop();
}

/// Calls `add` with a client of the reference implementation of the framing. The client starts this
/// command as its server.
#[track_caller]
fn call_with_vscode_client(server: &[&str]) -> String {
    const CLIENT: &str = r#"
        const [program, ...args] = process.argv.slice(1);
        const rpc = require("vscode-jsonrpc/node");
        const { spawn } = require("child_process");
        const server = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
        server.on("exit", (code) => process.exit(code));
        const line = rpc.createMessageConnection(server.stdout, server.stdin);
        line.listen();
        line.sendRequest("add", 2, 3).then((sum) => {
            console.log(sum);
            server.stdin.end();
        });
    "#;
    let mut client = Command::new("node");
    client.args(["-e", CLIENT, env!("CARGO_BIN_EXE_tieline")]).args(server);
    client.current_dir(vscode_jsonrpc());
    let finished = Program::run(&mut client, "");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished.stdout
}

/// Returns the endpoint of a command line in its JSON form.
fn exec(argv: &[String]) -> String {
    format!("exec:{}", json!(argv))
}
