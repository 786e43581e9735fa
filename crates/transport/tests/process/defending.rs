//! Programs that attack their guardian, and unrelated processes that this process adopts.

use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open,
};
use tieline_testkit::wait::block_on;
use tieline_testkit::{helper, misbehave, test_name};
use tieline_transport::{SenderExt, adopt_orphans, reap_orphans, until_children_are_gone};

use super::guarding::{end_by_hand, guarded, held, holds, until_none_survives};
use super::leaving::as_an_ordinary_user;
use super::*;

/// Returns a Python program under a guardian, with a misbehaving command as its arguments.
fn python(hold: Hold, script: &str, mark: &str) -> ProcessConfig {
    let others = misbehave::command(mark, &["ignore", "daemon"]);
    let config = ProcessConfig::new("python3").with_args(["-c", script]).with_args(others);
    ProcessConfig { guardian: Some(guardian().with_hold(hold)), ..config }
}

/// Requests twice that its guardian traces it. It stops for a signal, and for the start of another
/// program.
const TRACED: &str = "
import ctypes, os, signal
ptrace = ctypes.CDLL(None).ptrace
signal.signal(signal.SIGUSR1, lambda *_: print('handled', flush=True))
ptrace(0, 0, None, None)
os.kill(os.getpid(), signal.SIGUSR1)
ptrace(0, 0, None, None)
os.execvp('cat', ['cat'])
";

#[test]
fn program_traced_by_its_guardian_continues() {
    for hold in holds() {
        block_on(async {
            let config = python(hold, TRACED, &misbehave::new_mark());
            let (mut sender, mut receiver, control) = lines(&config).await;
            assert_eq!(message(receiver.recv().await), "handled", "{hold:?}");
            sender.send("hello").await.unwrap();
            assert_eq!(message(receiver.recv().await), "hello");
            sender.close().await.unwrap();
            assert_eq!(Exit::from(exit(control.stop().await)), Exit::code(0, ""));
        });
    }
}

/// Leaves a daemon, disables its parent-death signal, and kills its guardian.
const UNTIED: &str = "
import ctypes, os, signal, subprocess, sys, time
subprocess.run(sys.argv[1:])
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
print(os.getpid(), flush=True)
sys.stdin.readline()
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(10000)
";

#[test]
fn program_without_parent_death_signal_does_not_outlive_its_guardian() {
    let mut helper = helper::plain(test_name!(), || {
        let mut before = std::process::Command::new("cat");
        before.stdin(std::process::Stdio::piped());
        let mut before = std::env::var_os("SHARED").map(|_| before.spawn().unwrap());
        adopt_orphans().unwrap();
        let mark = misbehave::new_mark();
        let (child, exit) = block_on(async {
            let config = python(Hold::Descent, UNTIED, &mark);
            let (mut sender, mut receiver, _) = lines(&config).await;
            let child = pid(&mut receiver).await;
            sender.send("now").await.unwrap();
            (child, exit(end(receiver.recv().await)))
        });
        assert!(exit.guardian_lost, "{exit:?}");
        assert!(until_children_are_gone(wait::LIMIT));
        wait::until_ended(child);
        until_none_survives(&mark);
        if let Some(mut before) = before.take() {
            drop(before.stdin.take());
            assert!(before.wait().unwrap().success(), "an unrelated process was killed");
        }
    });
    helper::succeeds(&mut helper);
    helper::succeeds(helper.env("SHARED", "1"));
}

/// Leaves a daemon, and then stops its guardian by tracing each of its threads.
const TRACER: &str = "
import ctypes, os, signal, subprocess, sys, time
subprocess.run(sys.argv[1:])
ptrace = ctypes.CDLL(None).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
threads = [int(thread) for thread in os.listdir(f'/proc/{os.getppid()}/task')]
attached = [ptrace(16, thread, None, None) for thread in threads]
print('attached' if attached == [0, 0] else 'refused', flush=True)
time.sleep(10000)
";

#[test]
fn traced_guardian_is_killed_and_only_root_can_trace_it() {
    let mut helper = helper::plain(test_name!(), || {
        // A child that existed earlier means that other processes may be adopted, so each guardian has a
        // keeper.
        let mut before = std::process::Command::new("cat");
        before.stdin(std::process::Stdio::piped());
        let mut before = std::env::var_os("SHARED").map(|_| before.spawn().unwrap());
        adopt_orphans().unwrap();
        let is_root = rustix::process::geteuid().is_root();
        let holds = if is_root { holds() } else { vec![Hold::Descent] };
        for hold in holds.into_iter().filter(|hold| *hold != Hold::Isolated) {
            let mark = misbehave::new_mark();
            block_on(async {
                let (_sender, mut receiver, _) = lines(&python(hold, TRACER, &mark)).await;
                let expected = if is_root { "attached" } else { "refused" };
                assert_eq!(message(receiver.recv().await), expected);
                assert_eq!(misbehave::survivors(&mark).len(), 1);
            });
            assert!(until_children_are_gone(wait::LIMIT));
            until_none_survives(&mark);
            assert_eq!(
                misbehave::children_of(std::process::id()).len(),
                usize::from(before.is_some())
            );
        }
        if let Some(mut before) = before.take() {
            drop(before.stdin.take());
            assert!(before.wait().unwrap().success(), "an unrelated process was killed");
        }
    });
    helper::succeeds(&mut helper);
    as_an_ordinary_user(&mut helper);
    helper::succeeds(helper.env("SHARED", "1"));
}

#[test]
fn adopted_unrelated_process_is_not_killed_but_reaped_when_it_ends() {
    let mut helper = helper::plain(test_name!(), || {
        // The orphans of this child are adopted by this process, which is the nearest subreaper.
        let strangers = misbehave::new_mark();
        let command = misbehave::command(&strangers, &["read", "daemon", "say=left", "read"]);
        let mut before = std::process::Command::new(&command[0]);
        before.args(&command[1..]).stdin(std::process::Stdio::piped());
        let mut before = before.stdout(std::process::Stdio::piped()).spawn().unwrap();
        adopt_orphans().unwrap();
        assert!(reap_orphans());
        let mut stdin = before.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"now\n").unwrap();
        let stdout = std::io::BufReader::new(before.stdout.take().unwrap());
        assert_eq!(std::io::BufRead::lines(stdout).next().unwrap().unwrap(), "left");
        assert_eq!(misbehave::survivors(&strangers).len(), 2);

        for hold in [Hold::Descent, Hold::Auto] {
            // Either the guardian or the keeper is killed.
            for is_keeper in [false, true] {
                let mark = misbehave::new_mark();
                let to_do = ["ignore", "daemon", "child", "say=up", "stay"];
                block_on(async {
                    let (_sender, mut receiver, _) = lines(&held(hold, &mark, &to_do)).await;
                    assert_eq!(message(receiver.recv().await), "up");
                    let known = misbehave::survivors(&strangers);
                    let mut ours = Vec::new();
                    wait::until("ended children are reaped", || {
                        ours = misbehave::children_of(std::process::id());
                        ours.retain(|pid| !known.contains(pid));
                        reap_orphans() && ours.len() == 1
                    });
                    let keeper = ours[0];
                    let [guardian] = misbehave::children_of(keeper)[..] else {
                        panic!("not exactly one guardian")
                    };
                    let victim = if is_keeper { keeper } else { guardian };
                    kill_process(Pid::from_raw(victim as i32).unwrap(), Signal::KILL).unwrap();
                    let exit = exit(end(receiver.recv().await));
                    assert!(exit.guardian_lost || is_keeper, "{exit:?}");
                });
                assert!(until_children_are_gone(wait::LIMIT));
                until_none_survives(&mark);
                assert_eq!(
                    misbehave::survivors(&strangers).len(),
                    2,
                    "an unrelated process was killed"
                );
            }
        }

        let stranger = misbehave::survivors(&strangers);
        let stranger = *stranger.iter().find(|pid| **pid != before.id()).unwrap();
        kill_process(Pid::from_raw(stranger as i32).unwrap(), Signal::KILL).unwrap();
        wait::until("it is reaped", || {
            reap_orphans() && misbehave::children_of(std::process::id()) == [before.id()]
        });
        drop(stdin);
        assert!(before.wait().unwrap().success());
    });
    helper::succeeds(&mut helper);
}

#[test]
fn guardian_ends_with_its_parent_even_if_another_process_holds_its_socket() {
    let mark = misbehave::new_mark();
    let mut helper = helper::plain(test_name!(), || {
        let mark = std::env::var("MARK").unwrap();
        block_on(async {
            let to_do = ["ignore", "daemon", "say=up", "stay"];
            let (_sender, mut receiver, _) = lines(&guarded(&mark, &to_do)).await;
            assert_eq!(message(receiver.recv().await), "up");
            eprintln!("it is up");
            std::future::pending::<()>().await;
        });
    });
    helper.env("MARK", &mark).stdout(std::process::Stdio::null());
    let mut started = helper.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let stderr = std::io::BufReader::new(started.stderr.take().unwrap());
    assert!(std::io::BufRead::lines(stderr).any(|line| line.unwrap() == "it is up"));
    let pid = Pid::from_child(&started);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", started.id())).unwrap();
    let numbers = descriptors.map(|it| it.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let taken = numbers.map(|number| pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()));
    let taken: Vec<_> = match taken.collect() {
        Ok(taken) => taken,
        Err(error) => {
            eprintln!("skipped: descriptors of other processes cannot be duplicated here: {error}");
            Vec::new()
        }
    };
    kill_process(pid, Signal::KILL).unwrap();
    started.wait().unwrap();
    until_none_survives(&mark);
    drop(taken);
    end_by_hand(&mark);
}
