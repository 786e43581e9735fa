//! The processes that misbehaving programs leave after every kind of end of a line: none with a
//! guardian, and none in the process group without one.

use std::os::unix::process::CommandExt;

use tieline_testkit::{helper, misbehave, test_name};
use tieline_transport::{SenderExt, until_children_are_gone};
use tokio::runtime::Runtime;

use super::guarding::{end_by_hand, held, holds, misbehaving, until_none_survives};
use super::*;

/// The actions of a program, and the number of its processes that then escape its process group.
pub(super) const MISBEHAVING: [(&[&str], usize); 9] = [
    (&["ignore", "daemon", "child", "say=up", "stay"], 1),
    (&["ignore", "holder", "say=up", "stay"], 1),
    (&["ignore", "daemon", "setsid", "say=up", "stay"], 2),
    (&["daemon", "child", "say=up", "exit=3"], 1),
    (&["holder", "say=up", "half=abc", "exit=1"], 1),
    (&["daemon", "say=up", "close", "stay"], 1),
    (&["daemon", "say=up", "group=KILL", "stay"], 1),
    (&["child", "say=up", "echo"], 0),
    // The processes of this program are replaced continually.
    (&["relay", "say=up", "stay"], usize::MAX),
];

#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Drop,
    DropWithoutRuntime,
    Abort,
    Stop,
    Read,
}

pub(super) const ENDS: [End; 5] =
    [End::Drop, End::DropWithoutRuntime, End::Abort, End::Stop, End::Read];

/// Runs the program and ends its line.
pub(super) fn run(config: ProcessConfig, how: End) {
    let stop = StopTimeouts {
        end_of_input: Duration::from_millis(5),
        terminate: Duration::from_millis(5),
        drain: Duration::from_millis(50),
    };
    let runtime = Runtime::new().unwrap();
    let (mut sender, mut receiver, control) = runtime.block_on(async {
        let mut line = lines(&ProcessConfig { stop, ..config }).await;
        assert_eq!(message(line.1.recv().await), "up");
        line
    });
    match how {
        End::Drop => runtime.block_on(async { drop((sender, receiver)) }),
        End::DropWithoutRuntime => {
            drop(runtime);
            drop((sender, receiver));
        }
        End::Abort => control.abort(),
        End::Stop => runtime.block_on(async {
            // Closing fails if the child has ended.
            let _ = sender.close().await;
            control.stop().await;
        }),
        // This reads until the end of the line, if it comes in time.
        End::Read => runtime.block_on(async {
            let _ = sender.close().await;
            let _ = tokio::time::timeout(Duration::from_millis(100), receiver.recv()).await;
        }),
    }
}

#[test]
fn no_process_is_left_under_a_guardian() {
    let mut helper = helper::plain(test_name!(), || {
        for hold in holds() {
            for (to_do, _) in MISBEHAVING {
                for how in ENDS {
                    let mark = misbehave::new_mark();
                    run(held(hold, &mark, to_do), how);
                    until_none_survives(&mark);
                }
            }
        }
        assert!(until_children_are_gone(wait::LIMIT));
        assert_eq!(misbehave::children_of(std::process::id()), [0; 0]);
    });
    helper::succeeds(&mut helper);
    as_an_ordinary_user(&mut helper);
}

#[test]
fn no_process_in_the_group_is_left_without_a_guardian() {
    let mut helper = helper::plain(test_name!(), || {
        for (to_do, beyond) in MISBEHAVING {
            if beyond == usize::MAX {
                continue;
            }
            for how in ENDS {
                let mark = misbehave::new_mark();
                run(misbehaving(&mark, to_do), how);
                wait::until("the end of the group", || misbehave::survivors(&mark).len() <= beyond);
                // The number of survivors is exactly as large as documented.
                assert_eq!(misbehave::survivors(&mark).len(), beyond, "{to_do:?} {how:?}");
                end_by_hand(&mark);
            }
        }
        assert!(until_children_are_gone(wait::LIMIT));
        assert_eq!(misbehave::children_of(std::process::id()), [0; 0]);
    });
    helper::succeeds(&mut helper);
    as_an_ordinary_user(&mut helper);
}

/// Runs the helper again as an ordinary user, or prints why that is not possible.
#[track_caller]
pub(super) fn as_an_ordinary_user(helper: &mut std::process::Command) {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not run as root, so it has already run as an ordinary user");
        return;
    }
    helper::succeeds(helper.uid(NOBODY).gid(NOBODY).current_dir("/"));
}
