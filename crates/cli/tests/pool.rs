//! Tests of `tieline serve --process pool:N`: programs are started before their clients connect.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use serde_json::{Value, json};
use support::mcp::{ACCEPT, bearer, post_with};
use support::site::{Site, status_of};
use support::{
    Program, Serve, Talk, content_length_server, request, server_everything, tieline, until,
    xi_core,
};

/// A program that sends its process ID and then every message that it receives.
const ECHO: [&str; 4] = ["--", "sh", "-c", "echo $$; exec cat"];

fn serve(options: &[&str], program: &[&str]) -> Serve {
    let serve = Serve::start([options, program].concat());
    until("the pool is full", || {
        let warm = programs(serve.endpoint())["warm"].as_u64();
        warm.is_some_and(|warm| options.contains(&&*format!("pool:{warm}")))
    });
    serve
}

/// Returns what `tieline status` says about the programs of a server.
fn programs(endpoint: &str) -> Value {
    let finished = Program::run(tieline(["status", "--json"]).arg(endpoint), "");
    let status: Value = serde_json::from_str(&finished.stdout).unwrap();
    status["serves"][0]["programs"].clone()
}

fn pid(client: &mut impl Talk) -> u32 {
    client.line().unwrap().parse().unwrap()
}

#[test]
fn a_client_gets_a_program_that_runs_already_and_no_client_gets_it_again() {
    let serve = serve(&["--process", "pool:2"], &ECHO);
    let warm = serve.processes();
    assert_eq!(warm.len(), 2);
    let mut client = serve.client();
    let first = pid(&mut client);
    assert!(warm.contains(&first), "{first} is not one of {warm:?}");
    client.send("mine");
    assert_eq!(client.line().as_deref(), Some("mine"));
    serve.wait_processes(3);
    let expected = json!({"process": "pool:2", "running": 3, "limit": 64, "warm": 2, "in_use": 1});
    until("the status", || programs(serve.endpoint()) == expected);
    let finished = Program::run(tieline(["status"]).arg(serve.endpoint()), "");
    let line = "programs (pool:2): 3 running, 2 warm, 1 in use, at most 64";
    assert!(finished.stdout.contains(line), "{finished:?}");
    drop(client);
    serve.wait_processes(2);
    let mut seen = vec![first];
    for _ in 0..10 {
        let mut client = serve.client();
        let pid = pid(&mut client);
        assert!(!seen.contains(&pid), "{pid} was used twice: {seen:?}");
        seen.push(pid);
    }
    serve.wait_processes(2);
    let finished = serve.stop();
    assert!(finished.stderr.contains("2 started ahead"), "{finished:?}");
    assert!(finished.stderr.contains("no processes left"), "{finished:?}");
}

#[test]
fn more_clients_than_warm_programs_are_served_up_to_the_limit() {
    let options = ["--process", "pool:1", "--max-programs", "4", "--dialect", "strict"];
    let serve = serve(&options, &["--", "sh", "-c", "exec cat"]);
    let ping = request(1, "ping", json!({}));
    let mut clients: Vec<_> = (0..4).map(|_| serve.client()).collect();
    for client in &mut clients {
        client.send(&ping.to_string());
        assert_eq!(client.json(), ping);
    }
    assert_eq!(serve.processes().len(), 4);
    let answer = serve.client().call(&ping);
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(why.contains("too many programs: the limit of 4 is reached"), "{why}");
    clients.pop();
    until("a place is free", || programs(serve.endpoint())["in_use"] == 3);
    let mut client = serve.client();
    client.send(&ping.to_string());
    assert_eq!(client.json(), ping);
    drop((client, clients));
    serve.stop();
}

#[test]
fn programs_of_dialects_that_cannot_be_shared_can_be_pooled() {
    let everything = server_everything();
    let everything: Vec<&str> =
        ["--"].into_iter().chain(everything.iter().map(String::as_str)).collect();
    let mcp = serve(&["--dialect", "mcp", "--process", "pool:2"], &everything);
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "test", "version": "1" } });
    let mut clients = [mcp.client(), mcp.client()];
    for client in &mut clients {
        let answer = client.call(&request(1, "initialize", params.clone()));
        assert!(answer["result"]["capabilities"]["tools"].is_object(), "{answer}");
    }
    drop(clients);
    mcp.stop();

    let xi = serve(&["--dialect", "xi", "--process", "pool:1"], &["--", &xi_core()]);
    for _ in 0..2 {
        let mut client = xi.client();
        client.send(r#"{"method":"client_started","params":{}}"#);
        let view = client.call(&json!({ "id": 1, "method": "new_view", "params": {} }));
        // A program that has had a client would give out another name.
        assert_eq!(view["result"], "view-id-1");
    }
    xi.stop();

    let [node, script] = content_length_server();
    let options = ["--dialect", "lsp", "--framing", "content-length", "--process", "pool:1"];
    let lsp = serve(&options, &["--", &node, &script]);
    let mut client = lsp.client();
    assert_eq!(client.call(&request(1, "add", json!([2, 3])))["result"], 5);
    drop(client);
    lsp.stop();
}

#[test]
fn programs_that_end_while_they_are_warm_are_replaced_and_clients_get_the_reason() {
    let script = "echo no license >&2; read -r line; exit 3";
    let options = ["--process", "pool:3", "--dialect", "strict"];
    let failing =
        Serve::start([&options[..], &["--", "sh", "-c", "echo no license >&2; exit 3"]].concat());
    failing.program.wait_stderr("a warm program has ended");
    failing.program.wait_stderr("no license");
    let answer = failing.client().call(&request(1, "ping", json!({})));
    let why = &answer["error"];
    assert_eq!((&why["data"]["code"], &why["data"]["stderr"]), (&json!(3), &json!("no license\n")));
    failing.stop();

    // One that is killed is replaced at once.
    let serve = serve(&options, &["--", "sh", "-c", script]);
    let [victim, ..] = serve.processes()[..] else { panic!("no program") };
    let pid = rustix::process::Pid::from_raw(victim as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    serve.program.wait_stderr("SIGKILL");
    until("it is replaced", || {
        let now = serve.processes();
        now.len() == 3 && !now.contains(&victim)
    });
    serve.stop();
}

/// The programs ignore the end of their input.
#[test]
fn warm_programs_are_asked_to_stop_by_sigterm() {
    let serve = serve(&["--process", "pool:2"], &["--", "sleep", "1000"]);
    let finished = serve.stop();
    assert!(finished.stderr.contains("terminated=2 killed=0"), "{finished:?}");
}

/// More output than fits into a pipe blocks the program until it has a client.
#[test]
fn output_before_the_first_client_waits_in_the_pipe() {
    let script = "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo done >&2; exec cat";
    let serve = serve(&["--process", "pool:1"], &["--", "sh", "-c", script]);
    let mut client = serve.client();
    assert_eq!(client.line().unwrap().len(), 1_000_000);
    serve.program.wait_stderr("done");
    client.send("next");
    assert_eq!(client.line().as_deref(), Some("next"));
    drop(client);
    serve.stop();
}

#[test]
fn a_session_keeps_its_program_when_its_connection_is_cut() {
    let serve = serve(&["--resume", "--process", "pool:2"], &ECHO);
    let way = format!("unix:{}", serve.directory.path().join("way.sock").display());
    let target = format!("unix:{}", serve.path().display());
    let proxy = || {
        let mut proxy = Program::start(&mut tieline(["chaos", &way, &target]));
        assert!(proxy.line().is_some(), "{}", proxy.stderr());
        proxy
    };
    let mut first = proxy();
    let mut client = Program::start(tieline(["connect", "--resume", &way]).arg("-v"));
    let program = pid(&mut client);
    client.send("before");
    assert_eq!(client.line().as_deref(), Some("before"));
    first.signal(rustix::process::Signal::TERM);
    first.wait();
    client.wait_stderr("has lost its connection");
    let mut second = proxy();
    client.send("after");
    assert_eq!(client.line().as_deref(), Some("after"));
    assert!(serve.processes().contains(&program));
    let expected = json!({"process": "pool:2", "running": 3, "limit": 64, "warm": 2, "in_use": 1});
    until("the status", || programs(serve.endpoint()) == expected);
    assert_eq!(client.finish().code, Some(0));
    second.signal(rustix::process::Signal::TERM);
    second.wait();
    serve.stop();
}

#[test]
fn mcp_sessions_use_warm_programs() {
    let script = r#"
        echo "born $$" >&2
        while read -r line; do
            case $line in
            *'"initialize"'*)
                echo '{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","pid":'$$'}}' ;;
            esac
        done"#;
    let site = Site::start(&["--process", "pool:2", "--", "sh", "-c", script]);
    site.program.wait_stderr_times("born ", 2);
    let warm = site.program.stderr();
    let headers = bearer() + ACCEPT;
    let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize"}"#;
    let answer = site.ask(&post_with(&headers, initialize));
    assert_eq!(status_of(&answer), "200", "{answer}");
    let pid: String = answer
        .split(r#""pid":"#)
        .nth(1)
        .unwrap()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    assert!(warm.contains(&format!("born {pid} ")), "{pid}: {warm}");
    let metric = |line: &str| {
        let metrics = site.get("/metrics", &bearer());
        metrics.lines().any(|it| it == line)
    };
    until("the metrics", || {
        metric(r#"tieline_pool_programs{state="warm"} 2"#)
            && metric(r#"tieline_pool_programs{state="in_use"} 1"#)
            && metric("tieline_programs 3")
    });
    site.stop();
}
