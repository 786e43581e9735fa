//! Cgroups and namespaces: their additional guarantees, their effect on programs, and the account of
//! ended processes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tieline_testkit::wait::block_on;
use tieline_testkit::{helper, misbehave, test_name};
use tieline_transport::{
    Environment, ErrorKind, ProcessAccount, ProcessCounts, SenderExt, until_children_are_gone,
};

use super::guarding::{held, holds, until_none_survives};
use super::*;

const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: this test requires root");
    }
    is_root
}

/// Kills a helper and its guardians at the same instant.
fn kill_at_once(started: &mut std::process::Child, guardians: &[u32]) {
    let signal = |pid: &u32, signal| {
        kill_process(Pid::from_raw(*pid as i32).unwrap(), signal).unwrap();
    };
    // All processes are stopped first, including those inside a namespace, so that none reacts to the
    // end of another.
    let all = [&[started.id()], guardians].concat();
    all.iter().for_each(|pid| signal(pid, Signal::STOP));
    let below = guardians.iter().flat_map(|guardian| misbehave::children_of(*guardian));
    below.for_each(|pid| signal(&pid, Signal::STOP));
    all.iter().for_each(|pid| signal(pid, Signal::KILL));
    started.wait().unwrap();
}

/// Returns a helper with one misbehaving child, contained as the helper's environment specifies.
fn with_one(test: String) -> Command {
    helper::plain(test, || {
        let mark = std::env::var("MARK").unwrap();
        let hold = hold_of(&std::env::var(GUARDED).unwrap());
        block_on(async {
            let to_do = ["ignore", "daemon", "holder", "child", "say=up", "stay"];
            let (_sender, mut receiver, _) = lines(&held(hold, &mark, &to_do)).await;
            assert_eq!(message(receiver.recv().await), "up");
            eprintln!("all are up");
            std::future::pending::<()>().await;
        });
    })
}

fn start(helper: &mut Command, mark: &str, hold: Hold) -> (std::process::Child, Vec<u32>) {
    helper.env("MARK", mark).env(GUARDED, format!("{hold:?}"));
    helper.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut started = helper.spawn().unwrap();
    let stderr = std::io::BufReader::new(started.stderr.take().unwrap());
    let mut said = std::io::BufRead::lines(stderr).map(Result::unwrap);
    assert!(said.any(|line| line == "all are up"));
    let guardians = misbehave::children_of(started.id());
    assert_eq!((guardians.len(), misbehave::survivors(mark).len()), (1, 4));
    (started, guardians)
}

#[test]
fn isolated_processes_end_when_a_program_and_its_guardian_are_killed_at_once() {
    let mut helper = with_one(test_name!());
    let rounds = if soaking::is_long() { 500 } else { 10 };
    for round in 0..rounds {
        if round == rounds / 2 && is_root() {
            std::os::unix::process::CommandExt::uid(&mut helper, NOBODY).current_dir("/");
        }
        let mark = misbehave::new_mark();
        let (mut started, guardians) = start(&mut helper, &mark, Hold::Isolated);
        kill_at_once(&mut started, &guardians);
        until_none_survives(&mark);
    }
}

#[test]
fn abandoned_cgroup_is_killed_by_the_next_process() {
    if !is_root() {
        return;
    }
    let mut helper = with_one(test_name!());
    let mark = misbehave::new_mark();
    let (mut started, guardians) = start(&mut helper, &mark, Hold::Cgroup);
    let groups = misbehave::groups_of(&guardians);
    assert_eq!(groups.len(), 1);
    // The cgroups of running guardians are not touched.
    let other = misbehave::new_mark();
    let (mut living, of_living) = start(&mut helper, &other, Hold::Cgroup);
    kill_at_once(&mut started, &guardians);
    // The next process is another helper, because this process may have swept already.
    let next = misbehave::new_mark();
    let (mut next_one, of_next) = start(&mut helper, &next, Hold::Cgroup);
    until_none_survives(&mark);
    wait::until("the end of its group", || misbehave::groups_of(&guardians).is_empty());
    assert_eq!(misbehave::survivors(&other).len(), 4);
    for (one, mark, guardians) in [(&mut living, other, of_living), (&mut next_one, next, of_next)]
    {
        one.kill().unwrap();
        one.wait().unwrap();
        until_none_survives(&mark);
        wait::until("the end of its group", || misbehave::groups_of(&guardians).is_empty());
    }
}

#[test]
fn cgroup_kills_orphans_of_a_killed_guardian_without_adoption() {
    if !is_root() {
        return;
    }
    let mut helper = helper::plain(test_name!(), || {
        let mark = misbehave::new_mark();
        block_on(async {
            let to_do = ["ignore", "daemon", "holder", "say=up", "read", "guardian=KILL", "stay"];
            let (mut sender, mut receiver, _) = lines(&held(Hold::Cgroup, &mark, &to_do)).await;
            assert_eq!(message(receiver.recv().await), "up");
            let guardians = misbehave::children_of(std::process::id());
            assert_eq!(misbehave::groups_of(&guardians).len(), 1);
            sender.send("now").await.unwrap();
            assert!(exit(end(receiver.recv().await)).guardian_lost);
            until_none_survives(&mark);
            wait::until("the end of the group", || misbehave::groups_of(&guardians).is_empty());
        });
        assert!(until_children_are_gone(wait::LIMIT));
    });
    helper::succeeds(&mut helper);
}

/// A directory in the cgroup file system. It must be empty at the end of the test: a leftover cgroup
/// would prevent its removal.
struct Delegated(PathBuf);

impl Delegated {
    fn to(user: u32) -> Self {
        let name = format!("{}-delegated", misbehave::new_mark());
        let place = misbehave::own_group().unwrap().join(name);
        fs::create_dir(&place).unwrap();
        for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
            std::os::unix::fs::chown(place.join(file), Some(user), Some(user)).unwrap();
        }
        Self(place)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let removed = fs::remove_dir(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "a cgroup is left: {removed:?}");
    }
}

const PLACE: &str = "TIELINE_TEST_CGROUP";

/// Runs `body` as `user` in a process in a delegated cgroup.
pub(super) fn in_a_group(test: String, user: u32, body: impl FnOnce()) {
    let mut inner = helper::plain(format!("{test}#{user}"), body);
    let mut outer = helper::plain(format!("{test}#outer{user}"), || {
        let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
        fs::write(place.join("cgroup.procs"), "0").unwrap();
        std::os::unix::process::CommandExt::uid(&mut inner, user);
        std::os::unix::process::CommandExt::gid(&mut inner, user);
        soaking::succeeds(inner.current_dir("/"));
    });
    if !is_root() {
        return;
    }
    let delegated = Delegated::to(user);
    soaking::succeeds(outer.env(PLACE, &delegated.0));
}

fn all_that_misbehave() {
    for (to_do, _) in leaving::MISBEHAVING {
        for how in leaving::ENDS {
            let mark = misbehave::new_mark();
            leaving::run(held(Hold::Cgroup, &mark, to_do), how);
            until_none_survives(&mark);
        }
    }
    assert!(until_children_are_gone(wait::LIMIT));
}

#[test]
fn no_process_is_left_in_a_delegated_cgroup_of_an_ordinary_user() {
    in_a_group(test_name!(), NOBODY, all_that_misbehave);
}

#[test]
fn no_process_is_left_in_a_cgroup_of_root() {
    in_a_group(test_name!(), 0, all_that_misbehave);
}

#[test]
fn nested_cgroups_of_a_program_are_removed() {
    let body = || {
        let script = r#"
            group=$(sed -n 's/^0:://p' /proc/self/cgroup)
            mount=$(sed -n 's/^\S* \S* \S* \S* \(\S*\) .* - cgroup2 .*/\1/p' /proc/self/mountinfo)
            mkdir -p "$mount$group/a/b" && echo $$ > "$mount$group/a/b/cgroup.procs" || exit
            deep=d/d
            for level in 1 2 3 4 5 6; do deep=$deep/$deep; done
            mkdir -p "$mount$group/$deep" "$mount$group/e/f" || exit
            chmod 0 "$mount$group/d/d" "$mount$group/e" && echo up
            exec cat"#;
        let config = ProcessConfig { guardian: Some(guardian()), ..shell(script) };
        block_on(async {
            let (sender, mut receiver, _) = lines(&config).await;
            assert_eq!(message(receiver.recv().await), "up");
            drop((sender, receiver));
        });
        assert!(until_children_are_gone(wait::LIMIT));
    };
    in_a_group(test_name!(), NOBODY, body);
}

/// Without permission to create a cgroup, `Hold::Cgroup` fails, and `Hold::Auto` works without one.
#[test]
fn missing_cgroup_is_an_error_only_if_requested() {
    let mut helper = helper::plain(test_name!(), || {
        let one = |hold| ProcessConfig {
            guardian: Some(guardian().with_hold(hold)),
            ..shell("echo here")
        };
        block_on(async {
            let Err(error) = launch(&one(Hold::Cgroup)).await else {
                panic!("the program was started")
            };
            assert!(matches!(error.kind(), ErrorKind::LaunchFailed), "{error:?}");
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains("cannot create a cgroup"), "{source}");
            let (_sender, mut receiver, _) = lines(&one(Hold::Auto)).await;
            assert_eq!(message(receiver.recv().await), "here");
        });
    });
    if is_root() {
        std::os::unix::process::CommandExt::uid(&mut helper, NOBODY).current_dir("/");
        helper::succeeds(&mut helper);
    }
}

#[test]
fn isolated_program_keeps_its_user_and_sees_only_its_namespace() {
    let mut helper = helper::plain(test_name!(), || {
        let us = rustix::process::geteuid().as_raw();
        let directory = tempfile::tempdir().unwrap();
        let script = "echo $$ $PPID $(id -u) $(id -g); ps -e -o pid= | wc -l; : > made; kill -KILL $PPID; \
                      kill -STOP $PPID; echo still; read -r word; kill -ABRT $$";
        let config = ProcessConfig {
            guardian: Some(guardian().with_hold(Hold::Isolated)),
            cwd: Some(directory.path().to_owned()),
            ..shell(script)
        };
        block_on(async {
            let (mut sender, mut receiver, _) = lines(&config).await;
            // The guardian is the init of the namespace, and ignores signals from inside.
            assert_eq!(message(receiver.recv().await), format!("2 1 {us} {us}"));
            let shown: u32 = pid(&mut receiver).await;
            assert!(shown <= 5, "ps shows {shown} processes");
            assert_eq!(message(receiver.recv().await), "still");
            let made = fs::metadata(directory.path().join("made")).unwrap();
            assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), us);
            sender.send("go").await.unwrap();
            assert_eq!(Exit::from(exit(end(receiver.recv().await))), Exit::signal(6));
        });
        assert!(until_children_are_gone(wait::LIMIT));
    });
    helper::succeeds(&mut helper);
    leaving::as_an_ordinary_user(&mut helper);
}

#[test]
fn refused_isolation_is_an_error() {
    let helper = helper::plain(test_name!(), || {
        let config = ProcessConfig {
            guardian: Some(guardian().with_hold(Hold::Isolated)),
            ..shell("echo here")
        };
        let Err(error) = block_on(launch(&config)) else { panic!("the program was started") };
        assert!(matches!(error.kind(), ErrorKind::IsolationRefused), "{error:?}");
        assert!(error.hint().unwrap().contains("user.max_user_namespaces"), "{error:?}");
        assert!(!error.is_retryable());
    });
    if is_root() {
        // The helper runs in a user namespace that allows no further PID namespaces.
        let script = "echo 0 > /proc/sys/user/max_pid_namespaces && exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script]);
        command.arg(std::env::current_exe().unwrap()).args(helper.get_args());
        for (name, value) in helper.get_envs() {
            command.env(name, value.unwrap());
        }
        helper::succeeds(&mut command);
    }
}

fn counted(hold: Hold, to_do: &[&str], how: leaving::End) -> ProcessCounts {
    let account = ProcessAccount::default();
    let mark = misbehave::new_mark();
    let config = ProcessConfig { account: Some(account.clone()), ..held(hold, &mark, to_do) };
    leaving::run(config, how);
    block_on(account.settled(wait::LIMIT))
}

#[test]
fn account_counts_how_each_child_ended_and_verifies_that_no_process_is_left() {
    use leaving::End;
    for hold in holds() {
        let counts = |to_do: &[&str], how| {
            let counts = counted(hold, to_do, how);
            assert!(counts.none_left(), "{counts:?}");
            assert_eq!((counts.started, counts.gone, counts.unchecked), (1, 1, 0));
            let ProcessCounts { by_itself, asked, terminated, killed, others_killed, .. } = counts;
            [by_itself, asked, terminated, killed, others_killed]
        };
        let worst = ["ignore", "daemon", "holder", "child", "say=up", "stay"];
        assert_eq!(counts(&worst, End::Stop), [0, 0, 0, 1, 3]);
        assert_eq!(counts(&worst, End::Drop), [0, 0, 0, 1, 3]);
        assert_eq!(counts(&["say=up", "read", "stay"], End::Abort), [0, 0, 0, 1, 0]);
    }
    block_on(async {
        let account = ProcessAccount::default();
        let stop = StopTimeouts { end_of_input: Duration::ZERO, ..PATIENT };
        let to_do = ["daemon", "child", "say=up", "echo"];
        let asked = held(Hold::Auto, &misbehave::new_mark(), &to_do);
        let drain = Duration::from_millis(50);
        let stop_asked = StopTimeouts { drain, ..PATIENT };
        let config = ProcessConfig { account: Some(account.clone()), stop: stop_asked, ..asked };
        let (mut sender, mut receiver, control) = lines(&config).await;
        assert_eq!(message(receiver.recv().await), "up");
        sender.close().await.unwrap();
        control.stop().await;
        let counts = account.settled(wait::LIMIT).await;
        assert_eq!((counts.asked, counts.others_killed, counts.none_left()), (1, 2, true));

        let account = ProcessAccount::default();
        let polite = held(Hold::Auto, &misbehave::new_mark(), &["polite", "say=up", "stay"]);
        let config = ProcessConfig { account: Some(account.clone()), stop, ..polite };
        let (_sender, mut receiver, control) = lines(&config).await;
        assert_eq!(message(receiver.recv().await), "up");
        control.stop().await;
        let counts = account.settled(wait::LIMIT).await;
        assert_eq!((counts.terminated, counts.others_killed, counts.none_left()), (1, 0, true));

        let account = ProcessAccount::default();
        let config = ProcessConfig {
            account: Some(account.clone()),
            guardian: Some(guardian()),
            ..shell("sleep 1000 & exit 3")
        };
        let (_sender, mut receiver, _) = lines(&config).await;
        assert_eq!(Exit::from(exit(end(receiver.recv().await))), Exit::code(3, ""));
        let counts = account.settled(wait::LIMIT).await;
        assert_eq!((counts.by_itself, counts.others_killed, counts.none_left()), (1, 1, true));
        // Without a guardian, it is unknown whether a process is left.
        let account = ProcessAccount::default();
        let config = ProcessConfig { account: Some(account.clone()), ..ProcessConfig::new("true") };
        let (_sender, mut receiver, _) = lines(&config).await;
        exit(end(receiver.recv().await));
        let counts = account.settled(wait::LIMIT).await;
        assert_eq!((counts.by_itself, counts.unchecked, counts.none_left()), (1, 1, false));
    });
}

#[test]
fn request_that_is_too_large_is_refused() {
    // The first request exceeds the guardian's own limit of 16 MiB, the second only the kernel's limit.
    for (length, is_ours) in [(17 << 20, true), (3 << 20, false)] {
        let config = ProcessConfig {
            env: Environment::default().with("LONG", "x".repeat(length)),
            guardian: Some(guardian()),
            ..ProcessConfig::new("true")
        };
        let Err(error) = block_on(launch(&config)) else { panic!("the program was started") };
        let source = std::error::Error::source(&error).unwrap();
        let source = source.downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(
            source.raw_os_error(),
            Some(rustix::io::Errno::TOOBIG.raw_os_error()),
            "{is_ours}"
        );
    }
    assert!(until_children_are_gone(wait::LIMIT));
}
