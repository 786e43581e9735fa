//! The conformance suite, run on every transport of this crate and on the one in `examples/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use tieline_testkit::{Subject, conformance};
use tieline_transport::{Endpoint, Memory};

#[path = "../examples/custom_transport/xor.rs"]
mod xor;

conformance!(memory, listening, |check| {
    check.run(Subject::listening(Memory::default(), Endpoint::memory("agent")));
});

conformance!(custom_over_memory, listening, |check| {
    let endpoint = "xor:7@mem:agent".parse().unwrap();
    check.run(Subject::listening(xor::Xor::over(Memory::default()), endpoint));
});

#[cfg(target_os = "linux")]
conformance!(tcp, listening, |check| {
    let options =
        tieline_transport::Options { allow_unauthenticated_tcp: true, ..Default::default() };
    let endpoint = format!("tcp:{}:7000", loopback_of_its_own()).parse().unwrap();
    check.run(Subject::listening(tieline_transport::Tcp, endpoint).with_options(options));
});

/// Returns a loopback address that no other test uses. All of 127.0.0.0/8 is loopback, and each process
/// uses its own part of it.
#[cfg(target_os = "linux")]
fn loopback_of_its_own() -> std::net::Ipv4Addr {
    use std::sync::atomic::{AtomicU8, Ordering};
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    std::net::Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(unix)]
mod on_unix {
    use std::process::Stdio as Piped;

    use tieline_proto::Lines;
    use tieline_testkit::{Check, Subject, conformance, helper, wait};
    use tieline_transport::{
        Channel, CloseReason, Endpoint, FramedChannel, Incoming, Options, Process, ReceiverExt,
        Stdio, Transport, Unix,
    };

    use super::xor::Xor;

    conformance!(unix, listening, |check| {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::unix(directory.path().join("socket"));
        check.run(Subject::listening(Unix, endpoint).with(directory));
    });

    conformance!(custom_over_unix, listening, |check| {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = format!("xor:255@unix:{}/socket", directory.path().display());
        let endpoint = endpoint.parse().unwrap();
        check.run(Subject::listening(Xor::over(Unix), endpoint).with(directory));
    });

    // Bytes scrambled on the way to `cat` are unscrambled on the way back.
    conformance!(custom_over_process, echoing, |check| {
        let endpoint = "xor:7@exec:cat".parse().unwrap();
        check.run(Subject::echoing(Xor::over(Process), endpoint));
    });

    #[test]
    fn layered_transport_reports_how_the_child_ended() {
        wait::block_on(async {
            let xor = Xor::over(Process);
            let endpoint = "xor:7@exec:sh -c 'echo oops >&2; exit 3'".parse().unwrap();
            let config = xor.config(&endpoint, &Options::default()).unwrap();
            let connection = xor.connect(&config).await.unwrap();
            let channel = FramedChannel::new(connection, Lines::default(), Default::default());
            let (_sender, mut receiver) = channel.split();
            match receiver.recv().await {
                Incoming::End(CloseReason::ChildExited(exit)) => {
                    assert_eq!(exit.status.code(), Some(3));
                    assert_eq!(exit.stderr_tail, "oops\n");
                }
                other => panic!("{other:?}"),
            }
        });
    }

    conformance!(process, echoing, |check| {
        check.run(Subject::echoing(Process, Endpoint::exec("cat", [""; 0])));
    });

    conformance!(stdio, echoing, over_own_stdio);

    /// Runs a check in a separate process, because a process can take its stdio only once. This process
    /// is the peer.
    fn over_own_stdio(check: Check) {
        let test = check.test().to_owned();
        let mut helper = helper::with_own_stdio(test, || {
            check.run(Subject::echoing(Stdio, Endpoint::stdio()));
        });
        let helper = helper.stdin(Piped::piped()).stdout(Piped::piped()).stderr(Piped::piped());
        let mut helper = helper.spawn().unwrap();
        let (mut input, mut output) = (helper.stdout.take().unwrap(), helper.stdin.take().unwrap());
        let echo = std::thread::spawn(move || {
            // A helper that fails closes its pipes early.
            let _ = std::io::copy(&mut input, &mut output);
        });
        helper::finish(helper);
        echo.join().unwrap();
    }
}

#[cfg(windows)]
mod on_windows {
    use std::process::Stdio as Piped;

    use tieline_testkit::{Check, Subject, conformance, helper};
    use tieline_transport::{Address, Endpoint, Pipe, Process, Stdio};

    use super::xor::Xor;

    /// Returns a name that only this process uses, and uses only once.
    fn name() -> String {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("tieline-test-{}-{number}", std::process::id())
    }

    fn echo() -> Endpoint {
        let tests = std::env::current_exe().unwrap();
        let program = tests.parent().unwrap().parent().unwrap().join("examples/echo.exe");
        Endpoint::exec(program, [""; 0])
    }

    conformance!(pipe, listening, |check| {
        check.run(Subject::listening(Pipe, Endpoint::new(Address::Pipe(name()))));
    });

    conformance!(custom_over_pipe, listening, |check| {
        let endpoint = format!("xor:255@pipe:{}", name()).parse().unwrap();
        check.run(Subject::listening(Xor::over(Pipe), endpoint));
    });

    conformance!(process, echoing, |check| {
        check.run(Subject::echoing(Process, echo()));
    });

    conformance!(stdio, echoing, over_own_stdio);

    fn over_own_stdio(check: Check) {
        let test = check.test().to_owned();
        let mut helper = helper::with_own_stdio(test, || {
            check.run(Subject::echoing(Stdio, Endpoint::stdio()));
        });
        let helper = helper.stdin(Piped::piped()).stdout(Piped::piped()).stderr(Piped::piped());
        let mut helper = helper.spawn().unwrap();
        let (mut input, mut output) = (helper.stdout.take().unwrap(), helper.stdin.take().unwrap());
        let echo = std::thread::spawn(move || {
            helper::own_stdout(&mut input);
            // A helper that fails closes its pipes early.
            let _ = std::io::copy(&mut input, &mut output);
        });
        helper::finish(helper);
        echo.join().unwrap();
    }
}
