//! Child processes as lines: their start, their end, and the absence of processes afterwards.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod defending;
mod ending;
mod guarding;
mod holding;
mod launching;
mod leaving;
mod renumbering;
mod soaking;
mod stopping;
mod talking;

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tieline_proto::Lines;
use tieline_testkit::wait;
use tieline_transport::{
    Channel, ChannelConfig, ChildExit, CloseReason, Control, FramedChannel, FramedReceiver,
    FramedSender, Guardian, Hold, Incoming, Process, ProcessConfig, ProcessConnection, Receiver,
    ReceiverExt, StopTimeouts, Transport, TransportError,
};

/// Timeouts for tests in which no stage may time out.
const PATIENT: StopTimeouts = StopTimeouts { end_of_input: LONG, terminate: LONG, drain: LONG };
const LONG: Duration = Duration::from_secs(10_000);

/// Returns a configuration with a shell script as the child.
fn shell(script: &str) -> ProcessConfig {
    ProcessConfig::new("sh").with_args(["-c", script])
}

async fn launch(config: &ProcessConfig) -> Result<ProcessConnection, TransportError> {
    let guardian = std::env::var(GUARDED).ok().map(|hold| guardian().with_hold(hold_of(&hold)));
    let guardian = config.guardian.clone().or(guardian);
    Process.connect(&ProcessConfig { guardian, ..config.clone() }).await
}

/// If this is set in the environment, each child of these tests has a guardian with this `Hold`.
const GUARDED: &str = "TIELINE_TEST_GUARDED";

fn hold_of(name: &str) -> Hold {
    let all = [Hold::Auto, Hold::Descent, Hold::Cgroup, Hold::Isolated];
    all.into_iter().find(|hold| format!("{hold:?}") == name).unwrap()
}

/// Returns this program as its own guardian.
fn guardian() -> Guardian {
    Guardian::new("/proc/self/exe")
}

/// A guardian must have a single thread, and the `main` of tests starts with another one.
#[allow(unsafe_code)]
mod before_main {
    #[used]
    // SAFETY: the C library calls the functions in this section before `main`, in the same way as `main`.
    #[unsafe(link_section = ".init_array")]
    static BEFORE_MAIN: extern "C" fn() = {
        extern "C" fn be_guardian() {
            // With more arguments, a test needs a guardian that is started too late.
            if std::env::args_os().len() == 2 {
                tieline_transport::Guardian::of_this_program();
            }
        }
        be_guardian
    };
}

type Sender = FramedSender<<ProcessConnection as tieline_transport::Connection>::WriteHalf, Lines>;
type Recv = FramedReceiver<<ProcessConnection as tieline_transport::Connection>::ReadHalf, Lines>;

/// Returns the two halves of a line to the child, and its control handle.
async fn lines(config: &ProcessConfig) -> (Sender, Recv, Control) {
    let patient = ChannelConfig { program_stall_timeout: wait::LIMIT, ..ChannelConfig::default() };
    let connection = launch(config).await.unwrap();
    let channel = FramedChannel::new(connection, Lines::default(), patient);
    let control = channel.control().clone();
    let (sender, receiver) = channel.split();
    (sender, receiver, control)
}

#[track_caller]
fn message(incoming: Incoming) -> String {
    match incoming {
        Incoming::Message(message) => String::from_utf8(message.to_vec()).unwrap(),
        other => panic!("not a message: {other:?}"),
    }
}

/// Receives the process ID that the child wrote as a line.
async fn pid(receiver: &mut impl Receiver) -> u32 {
    message(receiver.recv().await).trim().parse().unwrap()
}

#[track_caller]
fn end(incoming: Incoming) -> CloseReason {
    match incoming {
        Incoming::End(reason) => reason,
        other => panic!("not the end: {other:?}"),
    }
}

#[track_caller]
fn exit(reason: CloseReason) -> ChildExit {
    match reason {
        CloseReason::ChildExited(exit) => Arc::unwrap_or_clone(exit),
        other => panic!("not an exit: {other:?}"),
    }
}

/// A child's end in a form that can be compared: its exit code or signal, and its stderr.
#[derive(Debug, PartialEq)]
struct Exit {
    code: Option<i32>,
    signal: Option<i32>,
    stderr: Bytes,
}

impl Exit {
    fn code(code: i32, stderr: &'static str) -> Self {
        Self { code: Some(code), signal: None, stderr: stderr.into() }
    }

    fn signal(signal: i32) -> Self {
        Self { code: None, signal: Some(signal), stderr: Bytes::new() }
    }
}

impl From<ChildExit> for Exit {
    fn from(exit: ChildExit) -> Self {
        let ChildExit { status, stderr_tail, .. } = exit;
        Self { code: status.code(), signal: status.signal(), stderr: stderr_tail }
    }
}
