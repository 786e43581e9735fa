//! Tests of `tieline serve --process`: several clients use one program.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Client, Program, Serve, Talk, request, server_everything, tieline, until};

/// Serves the MCP project's "everything" server to all clients.
fn everything(options: &[&str]) -> Serve {
    let options = options.iter().map(|it| (*it).to_owned());
    let mut args: Vec<String> =
        ["--dialect", "mcp", "--process", "shared"].map(str::to_owned).to_vec();
    args.extend(options.chain(["--".to_owned()]));
    args.extend(server_everything());
    Serve::start(args)
}

/// Adds a client that completes the handshake with id 1.
fn opened(serve: &Serve) -> Client {
    let mut client = serve.client();
    let capabilities = json!({ "roots": {}, "sampling": {} });
    let info = json!({ "name": "test", "version": "1" });
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": info });
    let answer = client.call(&request(1, "initialize", params));
    assert!(answer["result"]["capabilities"]["tools"].is_object(), "{answer}");
    client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    client
}

fn tool(id: u32, name: &str, arguments: Value, token: Option<&str>) -> Value {
    let mut params = json!({ "name": name, "arguments": arguments });
    if let Some(token) = token {
        params["_meta"] = json!({ "progressToken": token });
    }
    request(id, "tools/call", params)
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn clients_of_an_mcp_server_share_one_process() {
    let serve = everything(&[]);
    let (mut one, mut two) = (opened(&serve), opened(&serve));
    assert_eq!(serve.processes().len(), 1);
    for (client, word) in [(&mut one, "first"), (&mut two, "second")] {
        let answer = client.call(&tool(2, "echo", json!({ "message": word }), None));
        assert_eq!(text(&answer), format!("Echo: {word}"));
    }
    // Both clients use the same progress token in their calls, and each receives only the progress of
    // its own call.
    let long = json!({ "duration": 0.2, "steps": 2 });
    let call = tool(3, "trigger-long-running-operation", long, Some("token"));
    for client in [&mut one, &mut two] {
        client.send(&call.to_string());
    }
    for client in [&mut one, &mut two] {
        let mut progress = 0;
        loop {
            let message = client.json();
            match message["method"].as_str() {
                Some("notifications/progress") => {
                    assert_eq!(message["params"]["progressToken"], "token");
                    progress += 1;
                }
                Some(_) => {}
                None => break assert_eq!(message["id"], 3),
            }
        }
        assert_eq!(progress, 2);
    }
    let status: Value = {
        let finished = Program::run(tieline(["status", "--json"]).arg(serve.endpoint()), "");
        serde_json::from_str(&finished.stdout).unwrap()
    };
    let server = &status["serves"][0];
    assert_eq!(server["programs"], json!({ "process": "shared", "running": 1, "limit": 64 }));
    let pids: Vec<_> =
        server["lines"].as_array().unwrap().iter().map(|it| &it["program"]["pid"]).collect();
    assert!(pids.len() == 2 && pids[0] == pids[1] && pids[0].is_u64(), "{status}");
    let finished = Program::run(tieline(["status"]).arg(serve.endpoint()), "");
    assert!(finished.stdout.contains("programs (shared): 1 running, at most 64"), "{finished:?}");
    drop((one, two));
    serve.stop();
}

#[test]
fn a_killed_program_is_restarted_for_all_clients() {
    let serve = everything(&["--restart", "on-failure"]);
    let (mut one, mut two) = (opened(&serve), opened(&serve));
    let sleeping = json!({ "duration": 600, "steps": 1 });
    for client in [&mut one, &mut two] {
        client.send(&tool(2, "trigger-long-running-operation", sleeping.clone(), None).to_string());
    }
    let call = tool(3, "echo", json!({ "message": "here" }), None);
    assert_eq!(text(&two.call(&call)), "Echo: here");
    let [pid] = serve.processes()[..] else { panic!("{:?}", serve.processes()) };
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    for client in [&mut one, &mut two] {
        loop {
            let message = client.json();
            if message["id"] == 2 {
                assert_eq!(message["error"]["code"], -31000);
                assert_eq!(message["error"]["data"]["status"], "signal: 9 (SIGKILL)");
                break;
            }
        }
        assert_eq!(text(&client.call(&call)), "Echo: here");
    }
    assert_eq!(serve.processes().len(), 1);
    drop((one, two));
    serve.stop();
}

#[test]
fn a_program_asks_the_client_whose_call_is_in_flight() {
    let serve = everything(&[]);
    let (mut one, mut two) = (opened(&serve), opened(&serve));
    for (client, word) in [(&mut one, "first"), (&mut two, "second")] {
        let arguments = json!({ "prompt": word, "maxTokens": 5 });
        client.send(&tool(2, "trigger-sampling-request", arguments, None).to_string());
        loop {
            let message = client.json();
            match message["method"].as_str() {
                Some("sampling/createMessage") => {
                    assert!(message["params"].to_string().contains(word), "{message}");
                    let content = json!({ "type": "text", "text": format!("sampled {word}") });
                    let result = json!({ "model": "m", "role": "assistant", "content": content });
                    let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
                    client.send(&answer.to_string());
                }
                Some(_) => {}
                None => {
                    assert!(text(&message).contains(&format!("sampled {word}")), "{message}");
                    break;
                }
            }
        }
    }
    drop((one, two));
    serve.stop();
}

#[test]
fn calls_of_a_client_that_disconnects_are_canceled() {
    // The program writes each message that it receives to stderr.
    let script = r#"while read -r line; do printf '%s\n' "$line" >&2; done"#;
    let serve = Serve::start(["--dialect", "mcp", "--process", "shared", "--", "sh", "-c", script]);
    let (mut one, mut two) = (serve.client(), serve.client());
    one.send(&tool(7, "x", json!({}), None).to_string());
    serve.program.wait_stderr(r#""id":1,"#);
    two.send(&tool(7, "y", json!({}), None).to_string());
    serve.program.wait_stderr(r#""id":2,"#);
    drop(one);
    serve.program.wait_stderr(r#""params":{"requestId":1}"#);
    drop(two);
    serve.program.wait_stderr(r#""params":{"requestId":2}"#);
    serve.stop();
}

#[test]
fn an_idle_program_is_stopped_and_started_again_on_demand() {
    let serve = everything(&["--idle-timeout", "0s"]);
    drop(opened(&serve));
    serve.wait_processes(0);
    drop(opened(&serve));
    serve.wait_processes(0);
    serve.stop();
}

#[test]
fn clients_of_one_user_share_a_process() {
    let args = ["--dialect", "strict", "--process", "per-user", "--max-programs", "1"];
    let serve = Serve::start(args);
    let mut clients = [serve.client(), serve.client()];
    for client in &mut clients {
        let answer = client.call(&request(1, "add", json!([2, 3])));
        assert_eq!(answer["result"], 5);
    }
    until("one program", || serve.processes().len() == 1);
    serve.stop();
}

#[test]
fn a_model_that_the_dialect_does_not_allow_is_refused_with_a_remedy() {
    for (args, why, remedy) in [
        (
            &["--process", "shared"][..],
            "the protocol is known",
            "Add --dialect mcp if the program is an MCP server, --dialect strict if",
        ),
        // The lines of /ws, /sse and /rpc share the program, too.
        (
            &["--process", "shared", "--listen", "http://127.0.0.1:0"],
            "the protocol is known",
            "--dialect mcp",
        ),
        (&["--process", "per-user", "--dialect", "xi"], "dialect xi", "--process per-client"),
        (
            &["--process", "shared", "--dialect", "lsp"],
            "copy of each document",
            "--process per-client",
        ),
        (
            &["--process", "per-user", "--dialect", "mcp", "--listen", "tcp:127.0.0.1:0"],
            "tcp: endpoints",
            "--process shared",
        ),
        (
            &["--process", "per-user", "--dialect", "mcp", "--allow-unauthenticated-web"],
            "--allow-unauthenticated-web",
            "http: with a token",
        ),
        (&["--process", "most"], "expected per-client, shared, per-user, or pool:N", ""),
        (&["--process", "pool:0"], "pool:N with N from 1", ""),
        (&["--process", "pool:x"], "pool:N with N from 1", ""),
        (
            &["--process", "pool:5", "--max-programs", "4"],
            "--process pool:5: at most 4 programs may run",
            "Use a smaller pool, or raise --max-programs",
        ),
        (&["--process", "pool:65"], "at most 64 programs may run", "raise --max-programs"),
    ] {
        let finished = Program::run(tieline(["serve"]).args(args).args(["--", "cat"]), "");
        assert_eq!(finished.code, Some(2), "{finished:?}");
        for expected in [why, remedy] {
            assert!(finished.stderr.contains(expected), "{finished:?}");
        }
    }
}

/// Its clients wait for it during the whole grace period of the stop.
#[test]
fn shared_program_that_does_not_read_is_asked_to_stop_by_sigterm() {
    let options = ["--dialect", "mcp", "--process", "shared", "--", "sleep", "1000"];
    let mut serve = Serve::start(options);
    let mut client = serve.client();
    // More than fits into the program's pipe.
    let ping = format!("{}\n", request(1, "ping", json!({ "text": "x".repeat(1000) })));
    for _ in 0..200 {
        client.send_raw(ping.as_bytes());
    }
    until("the program runs", || !serve.processes().is_empty());
    serve.program.signal(Signal::TERM);
    let finished = serve.program.wait();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains("terminated=1 killed=0"), "{finished:?}");
}
