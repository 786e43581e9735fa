//! What is left of programs that misbehave, in every way a line can end: nothing under a guardian,
//! and without one nothing that has stayed in its group.

use std::os::unix::process::CommandExt;

use tieline_testkit::{helper, misbehave, test_name};
use tieline_transport::{SenderExt, until_children_are_gone};
use tokio::runtime::Runtime;

use super::guarding::{end_by_hand, held, holds, misbehaving, until_none_survives};
use super::*;

/// What a program does, and how many of its processes are beyond the reach of its group then.
pub(super) const MISBEHAVING: [(&[&str], usize); 9] = [
    (&["ignore", "daemon", "child", "say=up", "stay"], 1),
    (&["ignore", "holder", "say=up", "stay"], 1),
    (&["ignore", "daemon", "setsid", "say=up", "stay"], 2),
    (&["daemon", "child", "say=up", "exit=3"], 1),
    (&["holder", "say=up", "half=abc", "exit=1"], 1),
    (&["daemon", "say=up", "close", "stay"], 1),
    (&["daemon", "say=up", "group=KILL", "stay"], 1),
    (&["child", "say=up", "echo"], 0),
    // Its processes are other ones each time.
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

/// Has the line, and ends it.
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
            // One that has ended takes no close.
            let _ = sender.close().await;
            control.stop().await;
        }),
        // To its end, where it comes to one.
        End::Read => runtime.block_on(async {
            let _ = sender.close().await;
            let _ = tokio::time::timeout(Duration::from_millis(100), receiver.recv()).await;
        }),
    }
}

#[test]
fn nothing_is_left_under_a_guardian() {
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
fn nothing_of_the_group_is_left_without_a_guardian() {
    let mut helper = helper::plain(test_name!(), || {
        for (to_do, beyond) in MISBEHAVING {
            if beyond == usize::MAX {
                continue;
            }
            for how in ENDS {
                let mark = misbehave::new_mark();
                run(misbehaving(&mark, to_do), how);
                wait::until("the end of the group", || misbehave::survivors(&mark).len() <= beyond);
                // The gap is as it is described.
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

/// Runs the helper once more as nobody, or says why that is not possible.
#[track_caller]
pub(super) fn as_an_ordinary_user(helper: &mut std::process::Command) {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run as root: it was an ordinary user who ran this, and nobody else does");
        return;
    }
    helper::succeeds(helper.uid(NOBODY).gid(NOBODY).current_dir("/"));
}
