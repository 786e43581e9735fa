//! Reuse of process IDs, which is forced in a PID namespace. No unrelated process is ever signaled.

use std::fs;
use std::process::{Child, Command};

use tieline_testkit::wait::block_on;
use tieline_testkit::{helper, test_name};
use tieline_transport::{SenderExt, until_children_are_gone};

use super::*;

/// Starts a process with this ID, if the kernel assigns it. Another thread of this process may get the
/// ID, so several attempts are made.
fn stranger(number: u32) -> Option<Child> {
    for _ in 0..20 {
        fs::write("/proc/sys/kernel/ns_last_pid", (number - 1).to_string()).unwrap();
        let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
        if stranger.id() == number {
            return Some(stranger);
        }
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
    None
}

#[test]
fn unrelated_process_with_a_reused_id_is_never_signaled() {
    let helper = helper::plain(test_name!(), || {
        for hold in [None, Some(Hold::Descent), Some(Hold::Cgroup)] {
            let guardian = hold.map(|hold| guardian().with_hold(hold));
            block_on(async {
                let is_guarded = guardian.is_some();
                let stop = StopTimeouts { drain: LONG, ..PATIENT };
                let config = ProcessConfig { guardian, stop, ..shell("echo $$ $PPID; read -r _") };
                let (mut sender, mut receiver, control) = lines(&config).await;
                let said = message(receiver.recv().await);
                let numbers = said.split(' ').map(|number| number.parse::<u32>().unwrap());
                // Without a guardian, the parent is this process.
                let numbers: Vec<_> = numbers.take(if is_guarded { 2 } else { 1 }).collect();
                let (child, guardian) = (numbers[0], numbers.get(1));
                sender.send("end").await.unwrap();
                exit(end(receiver.recv().await));
                if let Some(guardian) = guardian {
                    assert!(stranger(*guardian).is_none(), "the guardian is running");
                } else {
                    assert!(stranger(child).is_none(), "a child keeps its id until it is reaped");
                }

                control.stop().await;
                assert!(until_children_are_gone(wait::LIMIT));
                let strangers = numbers.iter().map(|number| stranger(*number).expect("free"));
                let mut strangers: Vec<_> = strangers.collect();
                control.abort();
                control.stop().await;
                drop((sender, receiver));
                assert!(until_children_are_gone(wait::LIMIT));
                for stranger in &mut strangers {
                    assert!(
                        stranger.try_wait().unwrap().is_none(),
                        "an unrelated process was signaled"
                    );
                    stranger.kill().unwrap();
                    stranger.wait().unwrap();
                }
            });
        }
    });
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can choose the next process id");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]);
    command.arg(std::env::current_exe().unwrap()).args(helper.get_args());
    for (name, value) in helper.get_envs() {
        command.env(name, value.unwrap());
    }
    helper::succeeds(&mut command);
}
