//! The end of children and their descendants, and the way in which programs, arguments and environments
//! are passed.

use std::io::{BufRead, BufReader, Read};
use std::os::windows::io::AsRawHandle;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tieline_proto::Lines;
use tieline_testkit::wait::{block_on, blocking, until};
use tieline_testkit::{helper, test_name};
use tieline_transport::{
    Channel, CloseReason, Environment, ErrorKind, FramedChannel, Incoming, Process, ProcessAccount,
    ProcessConfig, ReceiverExt, SenderExt, StopTimeouts, Transport, resolve,
    until_children_are_gone,
};
use windows_sys::Win32::Foundation::{
    CloseHandle, HANDLE_FLAG_INHERIT, SetHandleInformation, WAIT_TIMEOUT,
};
use windows_sys::Win32::System::Threading::{
    OpenProcess, PROCESS_SYNCHRONIZE, WaitForSingleObject,
};

use crate::echo;

#[allow(unsafe_code)]
fn is_running(pid: u32) -> bool {
    // SAFETY: none of the calls takes a pointer, and the handle is closed once.
    unsafe {
        let process = OpenProcess(PROCESS_SYNCHRONIZE, 0, pid);
        if process.is_null() {
            return false;
        }
        let waited = WaitForSingleObject(process, 0);
        CloseHandle(process);
        waited == WAIT_TIMEOUT
    }
}

async fn lines(config: &ProcessConfig) -> FramedChannel<impl tieline_transport::Connection, Lines> {
    let connection = Process.connect(config).await.unwrap();
    FramedChannel::new(connection, Lines::default(), Default::default())
}

async fn line(receiver: &mut impl tieline_transport::Receiver) -> String {
    match receiver.recv().await {
        Incoming::Message(message) => String::from_utf8_lossy(&message).trim_end().to_owned(),
        other => panic!("not a line: {other:?}"),
    }
}

/// Each child starts another process, which has no connection to the line.
#[test]
fn two_hundred_rounds_leave_no_process() {
    let config = ProcessConfig::new(echo()).with_args(["--pids"]);
    let mut pids = Vec::new();
    for part in 0..8 {
        block_on(async {
            for _ in 0..25 {
                let (sender, mut receiver) = lines(&config).await.split();
                let said = line(&mut receiver).await;
                let both: Vec<u32> = said.split(' ').map(|pid| pid.parse().unwrap()).collect();
                if part == 0 {
                    assert!(both.iter().all(|pid| is_running(*pid)), "{both:?}");
                }
                pids.extend(both);
                drop((sender, receiver));
            }
        });
    }
    assert_eq!(pids.len(), 400);
    until("all processes have ended", || !pids.iter().any(|pid| is_running(*pid)));
}

#[test]
fn child_exits_at_the_end_of_input_and_its_descendants_are_killed() {
    block_on(async {
        let channel = lines(&ProcessConfig::new(echo()).with_args(["--pids"])).await;
        let control = channel.control().clone();
        let (mut sender, mut receiver) = channel.split();
        let both = line(&mut receiver).await;
        sender.close().await.unwrap();
        let CloseReason::ChildExited(exit) = control.stop().await else { panic!("{control:?}") };
        assert_eq!(exit.status.code(), Some(0), "the child exits by itself");
        let both: Vec<u32> = both.split(' ').map(|pid| pid.parse().unwrap()).collect();
        until("both processes have ended", || !both.iter().any(|pid| is_running(*pid)));
    });
}

/// The program is killed with TerminateProcess, so none of its code can clean up.
#[test]
fn descendants_of_a_killed_program_end_with_it() {
    let mut helper = helper::with_own_stdio(test_name!(), || {
        block_on(async {
            let channel = lines(&ProcessConfig::new(echo()).with_args(["--pids"])).await;
            let (_sender, mut receiver) = channel.split();
            println!("{}", line(&mut receiver).await);
            std::future::pending::<()>().await;
        });
    });
    let mut helper = helper.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(helper.stdout.take().unwrap());
    helper::own_stdout(&mut stdout);
    let mut pids = String::new();
    stdout.read_line(&mut pids).unwrap();
    let pids: Vec<u32> = pids.trim().split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_running(*pid)), "{pids:?}");
    helper.kill().unwrap();
    helper.wait().unwrap();
    until("both processes have ended", || !pids.iter().any(|pid| is_running(*pid)));
}

#[test]
fn child_that_ignores_the_end_of_its_input_is_killed() {
    block_on(async {
        let mut config = ProcessConfig::new(echo()).with_args(["--wait"]);
        config.stop.end_of_input = Duration::from_millis(50);
        config.stop.terminate = Duration::from_millis(50);
        let channel = lines(&config).await;
        let control = channel.control().clone();
        let (mut sender, _receiver) = channel.split();
        sender.close().await.unwrap();
        let CloseReason::ChildExited(exit) = control.stop().await else { panic!("{control:?}") };
        // This is a code with which no program exits by itself.
        assert_eq!(exit.status.code(), Some(0xE000_0089_u32.cast_signed()), "{exit}");
    });
}

/// The pipe ends although its other end could be inherited by every process started here.
#[test]
#[allow(unsafe_code)]
fn child_inherits_only_its_own_three_handles() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the handle is open and belongs to this test.
    let set = unsafe { SetHandleInformation(writer.as_raw_handle(), HANDLE_FLAG_INHERIT, 1) };
    assert_ne!(set, 0);
    block_on(async {
        let _line = lines(&ProcessConfig::new(echo()).with_args(["--pids"])).await;
        drop(writer);
        blocking("the end of a pipe", move || reader.read_to_end(&mut Vec::new()).unwrap());
    });
}

#[test]
fn child_has_the_given_environment_and_directory() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().canonicalize().unwrap();
    block_on(async {
        let env = Environment::only(["no-such-variable"]).with("b", "2=2").with("A", "\u{fc}ber");
        let config = ProcessConfig {
            env,
            cwd: Some(directory.clone()),
            ..ProcessConfig::new(echo()).with_args(["--surroundings", "a \"b\"", r"c\", ""])
        };
        let (_sender, mut receiver) = lines(&config).await.split();
        let cwd = directory.display().to_string();
        let expected = [
            r#"["--surroundings", "a \"b\"", "c\\", ""]"#,
            cwd.strip_prefix(r"\\?\").unwrap_or(&cwd),
            "A=\u{fc}ber",
            "b=2=2",
        ];
        for expected in expected {
            assert_eq!(line(&mut receiver).await, expected);
        }
        // Many programs cannot start without this variable. Wine adds other variables.
        while !line(&mut receiver).await.to_ascii_lowercase().starts_with("systemroot=") {}
    });
}

/// The system is queried about each job, so the result is verified.
#[test]
fn account_counts_how_each_child_ended_and_verifies_that_no_process_is_left() {
    block_on(async {
        let account = ProcessAccount::default();
        let config = |arg| ProcessConfig {
            account: Some(account.clone()),
            stop: StopTimeouts { end_of_input: Duration::from_millis(50), ..Default::default() },
            ..ProcessConfig::new(echo()).with_args([arg])
        };
        // This child leaves another process, and exits at the end of its input.
        let asked = ProcessConfig { stop: StopTimeouts::default(), ..config("--pids") };
        let channel = lines(&asked).await;
        let control = channel.control().clone();
        let (mut sender, mut receiver) = channel.split();
        let both = line(&mut receiver).await;
        sender.close().await.unwrap();
        control.stop().await;
        let running = |pid: &str| is_running(pid.parse().unwrap());
        assert!(!both.split(' ').any(running), "{both}: stop returned before all had ended");
        // These are a child that has to be killed, and one whose line is dropped.
        let channel = lines(&config("--wait")).await;
        channel.control().clone().stop().await;
        drop(channel);
        drop(lines(&config("--pids")).await);
        let counts = account.settled(Duration::from_secs(50)).await;
        assert!(counts.none_left(), "{counts:?}");
        assert_eq!((counts.started, counts.asked, counts.killed), (3, 1, 2), "{counts:?}");
        // Under Wine, the console server of a program is also in its job.
        assert!(counts.others_killed >= 1, "{counts:?}");
        assert!(until_children_are_gone(Duration::from_secs(50)));
    });
}

#[test]
fn program_is_found_without_its_extension() {
    let found = resolve("cmd".as_ref(), None).unwrap();
    assert!(found.is_absolute() && found.to_string_lossy().ends_with("cmd.exe"), "{found:?}");
    assert_eq!(resolve(found.as_os_str(), None).unwrap(), found);
    let error = resolve("no-such-program-here".as_ref(), None).unwrap_err();
    let ErrorKind::CommandNotFound { searched } = error.kind() else { panic!("{error:?}") };
    assert!(searched.iter().any(|it| it.ends_with("no-such-program-here.cmd")), "{searched:?}");
}

#[test]
fn backslashes_in_an_endpoint_arrive_unchanged() {
    block_on(async {
        let endpoint = format!("exec:{} --pids", echo().display());
        assert!(endpoint.contains('\\'), "{endpoint}");
        let options = tieline_transport::Options::default();
        let channel =
            tieline_transport::Registry::new().connect(&endpoint.parse().unwrap(), &options).await;
        let (_sender, mut receiver) = channel.unwrap().split();
        assert!(line(&mut receiver).await.contains(' '));
    });
}

#[test]
fn arguments_of_a_batch_file_arrive_or_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    // Variables in the path must not be expanded.
    let folder = directory.path().join("%TEMP% & more");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("say.cmd");
    std::fs::write(&file, "@echo off\r\necho 1 %1\r\necho 2 %2\r\n").unwrap();
    block_on(async {
        // The program is named without its extension, like `npx`. Characters that are special to the
        // shell are quoted.
        let program = Path::new(&file).with_extension("");
        let config = ProcessConfig::new(program).with_args(["a b", "c&echo&d"]);
        let (_sender, mut receiver) = lines(&config).await.split();
        assert_eq!(line(&mut receiver).await, "1 \"a b\"");
        assert_eq!(line(&mut receiver).await, "2 \"c&echo&d\"");

        let config = ProcessConfig::new(&file).with_args(["two\r\nlines"]);
        let error = Process.connect(&config).await.err().unwrap();
        assert!(matches!(error.kind(), ErrorKind::LaunchFailed), "{error:?}");
        assert!(error.hint().unwrap().contains("cmd.exe"), "{error:?}");
    });
}
