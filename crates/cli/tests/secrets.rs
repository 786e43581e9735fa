//! Tests that neither errors nor logs contain command lines and URLs, because these may contain secrets.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use rustix::process::Signal;
use support::{Program, Talk, tieline, until};
use tieline_testkit::executable;

/// A text that occurs nowhere else in the program's output, arguments or environment.
const SECRET: &str = "Xyzzy-7";

/// Returns typical arguments that contain secrets.
fn secrets() -> Vec<String> {
    [
        "--token=S",
        "--api-key",
        "S",
        "API_KEY=S",
        "-u",
        "me:S",
        "Authorization: Bearer S",
        "--mcp-config={\"env\": {\"X\": \"S\"}}",
        "https://me:S@host/x?token=S",
    ]
    .map(|it| it.replace('S', SECRET))
    .to_vec()
}

fn exec(program: &str) -> String {
    let mut argv: Vec<String> = program.split(' ').map(str::to_owned).collect();
    argv.extend(secrets());
    format!("exec:{}", serde_json::to_string(&argv).unwrap())
}

#[test]
fn failing_commands_print_no_secret_of_an_endpoint() {
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("broken");
    executable::write(&broken, "#!/no/such/interpreter\n");
    let broken = exec(broken.to_str().unwrap());
    let (missing, failing) = (exec("no-such-program"), exec("false"));
    let url = format!("ws://me:{SECRET}@127.0.0.1:1/ws?token={SECRET}");
    let unanswered = format!("ws://127.0.0.1:1/ws?token={SECRET}");
    let long = format!("exec:x {}", "y".repeat(10_000));
    for args in [
        &["connect", &missing][..],
        &["connect", &failing],
        &["connect", &broken],
        &["connect", &url],
        &["connect", &unanswered],
        &["connect", &format!("my-agent --token={SECRET}")],
        &["connect", &format!("unix:/a?token={SECRET}")],
        &["connect", "unix:/a", &format!("--token={SECRET}")],
        &["connect", &long],
        &["bridge", "stdio:", &missing],
        &["bridge", "stdio:", &failing],
        &["call", &missing, "x"],
        &["call", &failing, "x"],
        &["call", &broken, "x"],
        &["serve", "--token", SECRET, "--listen", "http://127.0.0.1:0", "--", "cat"],
    ] {
        for format in ["text", "json"] {
            let mut command = tieline(["-vv", "--log-format", format]);
            let finished = Program::run(command.args(args).env("RUST_LOG", "trace"), "1\n");
            assert_ne!(finished.code, Some(0), "{args:?}");
            assert!(!finished.stderr.is_empty(), "{args:?}");
            let said = finished.stdout + &finished.stderr;
            assert!(!said.contains(SECRET), "{args:?}: {said}");
            assert!(said.len() < 8_000, "{args:?}: {said}");
        }
    }
}

#[test]
fn servers_and_proxies_print_no_secret_of_a_program() {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("s").display());
    let proxy = format!("unix:{}", directory.path().join("p").display());
    let runtime = directory.path().join("run");
    std::fs::create_dir(&runtime).unwrap();
    let traced = |args: &[&str]| {
        let mut command = tieline(["-vv"]);
        command.args(args).env("RUST_LOG", "trace").env("XDG_RUNTIME_DIR", &runtime);
        command
    };
    // The program answers once, and then fails.
    let script = "read -r line; echo \"$line\"; read -r line; exit 3";
    let mut serve = traced(&["serve", "--restart", "on-failure", "--listen", &socket]);
    serve.args(["--listen", "http://127.0.0.1:0", "--", "sh", "-c", script, "sh"]).args(secrets());
    let mut serve = Program::start(&mut serve);
    assert_eq!(serve.line().as_deref(), Some(&*socket));
    let web = serve.line().unwrap();

    let mut chaos = traced(&["chaos", &proxy, &exec("sh -c cat sh")]);
    let mut chaos = Program::start(&mut chaos);
    assert_eq!(chaos.line().as_deref(), Some(&*proxy));
    let proxied = Program::run(&mut traced(&["connect", &proxy]), "1\n");
    assert_eq!(proxied.stdout, "1\n");

    let mut client = Program::start(&mut traced(&["connect", &socket]));
    client.send("1");
    assert_eq!(client.line().as_deref(), Some("1"));
    let mut told = Vec::new();
    for args in [&["status"][..], &["status", "--json"]] {
        told.push(Program::run(&mut traced(args), "").stdout);
    }
    assert!(told.iter().all(|it| it.contains(&socket)), "{told:?}");
    let metrics =
        std::process::Command::new("curl").args(["-s", &format!("{web}/metrics")]).output();
    told.push(String::from_utf8(metrics.unwrap().stdout).unwrap());
    client.send("2");
    until("the program is restarted", || serve.stderr().contains("restarting in"));
    client.signal(Signal::TERM);
    let client = client.finish();
    serve.signal(Signal::TERM);
    chaos.signal(Signal::TERM);
    for finished in [serve.finish(), chaos.finish(), client, proxied] {
        told.extend([finished.stdout, finished.stderr]);
    }
    for told in told {
        assert!(!told.contains(SECRET), "{told}");
    }
}
