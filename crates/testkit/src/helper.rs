//! Runs part of a test in another process, by starting the test binary again for the calling test only.
//!
//! ```no_run
//! use tieline_testkit::{helper, test_name};
//!
//! // In a test:
//! let mut other = helper::plain(test_name!(), || {
//!     // This runs in the other process.
//! });
//! helper::succeeds(&mut other);
//! ```
//!
//! In the other process, the test runs up to the call, which runs the closure and exits. A test with
//! several helpers distinguishes them by suffixes of its name: `test_name!() + "#client"`.

#[cfg(unix)]
use std::fs::OpenOptions;
use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

#[cfg(unix)]
use rustix::stdio;

use crate::wait::LIMIT;

const VARIABLE: &str = "TIELINE_TEST_HELPER";

/// The exit code after the closure has finished. It differs from 0, with which a test harness exits if
/// it finds no test with the name, and from 101, with which it exits if the test fails.
const DONE: i32 = 42;

/// Creates a helper process. Its stdout also contains the output of the test harness.
pub fn plain(test: String, body: impl FnOnce()) -> Command {
    if is_helper(&test) {
        body();
        std::process::exit(DONE);
    }
    // Through this path, a process finds its own program even if the current user cannot access the
    // file.
    let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { this_program() };
    let mut command = Command::new(program);
    command.args(harness_args(&test)).env(VARIABLE, test);
    command
}

/// Creates a helper process whose stdin, stdout and stderr contain only its own data. Its descriptor 3
/// is a duplicate of stderr.
#[cfg(unix)]
pub fn with_own_stdio(test: String, body: impl FnOnce()) -> Command {
    if is_helper(&test) {
        put_stdio_back();
        body();
        std::process::exit(DONE);
    }
    // The harness writes to /dev/null; the real stdout is kept as stderr, and stderr as descriptor 3.
    let script = r#"exec "$@" 3>&2 2>&1 1>/dev/null"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(this_program());
    command.args(harness_args(&test)).env(VARIABLE, test);
    command
}

/// Creates a helper process whose stdin and stderr contain only its own data. On its stdout, its own
/// data [follows](own_stdout) the output of the test harness.
#[cfg(windows)]
pub fn with_own_stdio(test: String, body: impl FnOnce()) -> Command {
    use std::io::Write;

    plain(test, || {
        let mut stdout = std::io::stdout();
        stdout.write_all(BEGINNING).and_then(|()| stdout.flush()).unwrap();
        body();
    })
}

/// The bytes on stdout that precede the output of the helper itself.
#[cfg(windows)]
const BEGINNING: &[u8] = b"\0 the helper begins\n";

/// Skips the output of the test harness, up to the output of the helper itself.
#[cfg(windows)]
pub fn own_stdout(stdout: &mut impl Read) {
    let mut read = Vec::new();
    while !read.ends_with(BEGINNING) {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        read.extend(byte);
    }
}

/// Runs the helper and returns its stdout. Panics if the helper fails.
#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = finish(command.spawn().unwrap());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until a helper exits and returns the output of its pipes. Panics if the helper fails. A helper
/// that does not exit is killed.
#[track_caller]
pub fn finish(mut helper: Child) -> Output {
    let stdout = helper.stdout.take().map(read_aside);
    let stderr = helper.stderr.take().map(read_aside);
    let deadline = Instant::now() + LIMIT * 2;
    let status = loop {
        match helper.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                helper.kill().unwrap();
                break helper.wait().unwrap();
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let [stdout, stderr] =
        [stdout, stderr].map(|pipe| match pipe.map(|it| it.recv_timeout(LIMIT)) {
            Some(Ok(read)) => read,
            Some(Err(_)) => panic!("{status}, but another process holds a pipe of the helper"),
            None => Vec::new(),
        });
    assert!(status.code() == Some(DONE), "{status}: {}", String::from_utf8_lossy(&stderr));
    Output { status, stdout, stderr }
}

fn read_aside(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (done, all) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut read = Vec::new();
        pipe.read_to_end(&mut read).unwrap();
        done.send(read)
    });
    all
}

fn is_helper(test: &str) -> bool {
    std::env::var_os(VARIABLE).is_some_and(|helped| helped == test)
}

fn this_program() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}

fn harness_args(test: &str) -> [&str; 4] {
    let (test, _) = test.split_once('#').unwrap_or((test, ""));
    [test, "--exact", "--nocapture", "--include-ignored"]
}

#[cfg(unix)]
fn put_stdio_back() {
    let real_stderr = OpenOptions::new().append(true).open("/dev/fd/3").unwrap();
    stdio::dup2_stdout(stdio::stderr()).unwrap();
    stdio::dup2_stderr(&real_stderr).unwrap();
}
