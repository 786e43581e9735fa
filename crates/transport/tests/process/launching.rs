//! The arguments, environment and descriptors of a child, and the error for each failure to start one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;
use tieline_testkit::wait::block_on;
use tieline_testkit::{helper, test_name};
use tieline_transport::{Connection, Endpoint, ErrorKind, Operation, Options};
use tokio::io::AsyncReadExt;

use super::*;

#[test]
fn arguments_arrive_unchanged() {
    let words = [
        "",
        " ",
        "two words",
        "$HOME",
        "`id`",
        "$(id)",
        "; exit 1",
        "a'b\"c",
        "\\",
        "*",
        "--flag=x",
        "-",
        "a\nb",
        "é",
        "%s",
        "{\"json\":[1]}",
        "&&",
        "|",
        ">x",
        "#",
        "~",
        "!!",
    ];
    let mut words = words.map(OsString::from).to_vec();
    words.push(OsString::from_vec(vec![0xff, 0xfe, 0x80]));
    // The text of an endpoint gives the same result, but carries only valid UTF-8.
    let direct = ProcessConfig::new("printf").with_args(["%s\\0"]).with_args(&words);
    assert_eq!(output(&direct), joined(&words));
    words.pop();
    let endpoint = Endpoint::exec("printf", [OsString::from("%s\\0")].iter().chain(&words));
    let endpoint: Endpoint = endpoint.exact().to_string().parse().unwrap();
    let through_text = Process.config(&endpoint, &Options::default()).unwrap();
    assert_eq!(output(&through_text), joined(&words));
}

fn joined(words: &[OsString]) -> Vec<u8> {
    words.iter().flat_map(|word| [word.as_encoded_bytes(), b"\0"].concat()).collect()
}

#[test]
fn child_gets_its_directory_and_extra_environment_variables() {
    let directory = tempfile::tempdir().unwrap();
    let cwd = fs::canonicalize(directory.path()).unwrap();
    let options = Options {
        cwd: Some(cwd.clone()),
        env: [("TIELINE_TEST_A", "a b\nc"), ("TIELINE_TEST_B", "")].into_iter().collect(),
        ..Options::default()
    };
    let script = r#"printf '%s|' "$PWD" "$TIELINE_TEST_A" "${TIELINE_TEST_B-unset}" "$PATH""#;
    let endpoint = Endpoint::exec("sh", ["-c", script]);
    let config = Process.config(&endpoint, &options).unwrap();
    let path = std::env::var("PATH").unwrap();
    let expected = format!("{}|a b\nc||{path}|", cwd.display());
    assert_eq!(String::from_utf8(output(&config)).unwrap(), expected);
}

#[test]
fn relative_program_is_resolved_in_the_childs_directory() {
    let directory = tempfile::tempdir().unwrap();
    program(&directory.path().join("hello"), "#!/bin/sh\necho hello\n", 0o755);
    let cwd = Some(directory.path().to_owned());
    let config = ProcessConfig { cwd, ..ProcessConfig::new("./hello") };
    assert_eq!(output(&config), b"hello\n");
}

#[test]
fn child_inherits_only_the_three_standard_descriptors() {
    // This process has other descriptors, including inheritable ones.
    let file = fs::File::open("/dev/null").unwrap();
    let _inheritable = rustix::io::dup(&file).unwrap();
    let (_left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
    let _pipe = std::io::pipe().unwrap();
    block_on(async {
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(launch(&shell("cat")).await.unwrap());
        }
        let (_sender, mut receiver, _) = lines(&shell("ls /proc/$$/fd; echo end")).await;
        let mut descriptors = BTreeSet::new();
        loop {
            match message(receiver.recv().await).as_str() {
                "end" => break,
                number => assert!(descriptors.insert(number.parse::<u32>().unwrap())),
            }
        }
        assert_eq!(descriptors, BTreeSet::from([0, 1, 2]));
    });
}

#[test]
fn starting_fails_while_sigchld_is_ignored() {
    let helper = helper::plain(test_name!(), || {
        let launched = || block_on(async { launch(&shell("exit 7")).await });
        let Err(error) = launched() else {
            panic!("started, although its exit status would be lost")
        };
        assert!(matches!(error.kind(), ErrorKind::LaunchFailed), "{error:?}");
        assert!(error.hint().unwrap().contains("reset_inherited"), "{error:?}");
        assert!(tieline_transport::is_signal_ignored(Signal::CHILD.as_raw()));
        tieline_transport::reset_inherited();
        block_on(async {
            let (_sender, mut receiver, _) = lines(&shell("exit 7")).await;
            assert_eq!(Exit::from(exit(end(receiver.recv().await))), Exit::code(7, ""));
        });
    });
    let mut command = std::process::Command::new("perl");
    command.args(["-e", r#"$SIG{CHLD} = "IGNORE"; exec @ARGV"#]);
    command.arg(std::env::current_exe().unwrap()).args(helper.get_args());
    command.envs(helper.get_envs().filter_map(|(name, value)| Some((name, value?))));
    helper::succeeds(&mut command);
}

#[test]
fn child_starts_with_no_blocked_or_internally_ignored_signals() {
    block_on(async {
        let script = "grep -E 'SigBlk|SigIgn' /proc/self/status";
        let (_sender, mut receiver, _) = lines(&shell(script)).await;
        let mut mask = async || {
            let line = message(receiver.recv().await);
            u64::from_str_radix(line.split_once(':').unwrap().1.trim(), 16).unwrap()
        };
        assert_eq!(mask().await, 0, "blocked signals");
        assert_eq!(mask().await & (1 << 31 | 1 << 32), 0, "ignored signals");
    });
}

#[test]
fn child_leads_its_own_group_and_does_not_ignore_sigpipe() {
    block_on(async {
        let script = "cut -d' ' -f1,5 /proc/$$/stat; grep SigIgn /proc/$$/status; :";
        let (_sender, mut receiver, _) = lines(&shell(script)).await;
        let stat = message(receiver.recv().await);
        let (pid, group) = stat.split_once(' ').unwrap();
        assert_eq!(pid, group);
        // This process ignores SIGPIPE, like every Rust program.
        let ignored = message(receiver.recv().await);
        let ignored = ignored.trim_start_matches("SigIgn:").trim();
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 1 << (13 - 1), 0);
    });
}

#[test]
fn each_launch_failure_has_its_own_error() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    program(&at("no-interpreter"), "#!/no/such/interpreter\n", 0o755);
    program(&at("no-program"), "echo a shell would run this\n", 0o755);
    program(&at("not-executable"), "#!/bin/sh\n", 0o644);
    fs::create_dir(at("directory")).unwrap();

    type Kind = fn(&ErrorKind) -> bool;
    let not_found: Kind = |kind| matches!(kind, ErrorKind::CommandNotFound { .. });
    let not_executable: Kind = |kind| matches!(kind, ErrorKind::NotExecutable(_));
    let failed: Kind = |kind| matches!(kind, ErrorKind::LaunchFailed);
    let cases: [(ProcessConfig, Kind, &str); 7] = [
        (ProcessConfig::new("tieline-no-such-program"), not_found, "full path"),
        (ProcessConfig::new(at("missing")), not_found, "full path"),
        (ProcessConfig::new(at("directory")), not_found, "full path"),
        (ProcessConfig::new(at("not-executable")), not_executable, "chmod"),
        (ProcessConfig::new(at("no-interpreter")), failed, "interpreter"),
        (ProcessConfig::new(at("no-program")), failed, "interpreter"),
        (
            ProcessConfig { cwd: Some(at("missing")), ..ProcessConfig::new("cat") },
            |kind| matches!(kind, ErrorKind::DirectoryMissing(_)),
            "mkdir",
        ),
    ];
    for (config, kind, hint) in cases {
        let Err(error) = block_on(launch(&config)) else { panic!("{config:?} was started") };
        assert!(kind(error.kind()), "{:?}: {:?}", config.program, error.kind());
        assert_eq!(error.operation(), Operation::Launch);
        assert_eq!(error.endpoint().unwrap().scheme(), "exec");
        assert!(!error.is_retryable());
        assert!(error.hint().unwrap().contains(hint), "{error}; {:?}", error.hint());
    }
}

#[test]
fn program_is_searched_in_each_directory_of_path() {
    let config = ProcessConfig::new("tieline-no-such-program");
    let Err(error) = block_on(launch(&config)) else { panic!("the program was started") };
    let ErrorKind::CommandNotFound { searched } = error.kind() else { panic!("{error:?}") };
    let path = std::env::var_os("PATH").unwrap();
    for directory in std::env::split_paths(&path) {
        assert!(searched.contains(&directory.join("tieline-no-such-program")), "{searched:?}");
    }
}

#[test]
fn invalid_configuration_is_refused_by_field_name() {
    let good = ProcessConfig::new("cat");
    let with_env = |name: &str, value: &str| ProcessConfig {
        env: [(name, value)].into_iter().collect(),
        ..good.clone()
    };
    let no_drain = StopTimeouts { drain: Duration::ZERO, ..StopTimeouts::default() };
    for (config, field) in [
        (ProcessConfig::new(""), "program"),
        (ProcessConfig::new("ca\0t"), "program"),
        (good.clone().with_args(["a", "b\0c"]), "args"),
        (with_env("", "x"), "env"),
        (with_env("A=B", "x"), "env"),
        (with_env("A\0", "x"), "env"),
        (with_env("A", "x\0y"), "env"),
        (ProcessConfig { stop: no_drain, ..good.clone() }, "stop.drain"),
    ] {
        let Err(error) = block_on(launch(&config)) else { panic!("{config:?} was started") };
        match error.kind() {
            ErrorKind::InvalidConfig(refused) => assert_eq!(refused.field, field),
            other => panic!("{config:?}: {other:?}"),
        }
    }
}

#[test]
fn listening_is_an_unsupported_operation() {
    let listening = block_on(Process.listen(&ProcessConfig::new("cat")));
    let error = listening.map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnsupportedOperation), "{error:?}");
    assert!(error.hint().unwrap().contains("connect"));
}

#[test]
fn running_out_of_descriptors_is_retryable_and_leaks_nothing() {
    // The limit applies to the whole process.
    let mut helper = helper::plain(test_name!(), || {
        use rustix::process::{Resource, Rlimit};
        let limit = Rlimit { current: Some(64), ..rustix::process::getrlimit(Resource::Nofile) };
        rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
        block_on(async {
            drop(launch(&shell("cat")).await.unwrap());
            let null = || fs::File::open("/dev/null");
            let mut taken: Vec<_> = std::iter::repeat_with(null).map_while(Result::ok).collect();
            // One more descriptor is freed each time, so that every step fails once.
            let mut pipes = 0;
            loop {
                let error = match launch(&shell("cat")).await {
                    Ok(_) => break,
                    Err(error) => error,
                };
                match error.kind() {
                    ErrorKind::PipeFailed => pipes += 1,
                    ErrorKind::ResourcesExhausted => {}
                    _ => panic!("{error:?}"),
                }
                assert!(error.is_retryable());
                assert!(error.hint().unwrap().contains("ulimit"), "{error:?}");
                assert!(std::error::Error::source(&error).is_some(), "{error:?}");
                taken.pop().unwrap();
            }
            assert!(pipes > 0);
            drop(taken);
            wait::until("all children have ended", || children().is_empty());
        });
    });
    helper::succeeds(&mut helper);
}

fn children() -> String {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap()).collect()
}

/// Returns the whole output of the child.
fn output(config: &ProcessConfig) -> Vec<u8> {
    block_on(async {
        let (mut read, _write) = launch(config).await.unwrap().into_split();
        let mut output = Vec::new();
        read.read_to_end(&mut output).await.unwrap();
        output
    })
}

fn program(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}
