//! A process that a test starts. Its output is collected, and dropping it stops it.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use tieline_testkit::executable;

use super::{LIMIT, Talk};

/// Returns a command for the program under test, without environment variables that affect it.
pub(crate) fn tieline<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    // The tests may run with ignored signals, for example under nohup, and a child process would inherit
    // them.
    let mut command = Command::new("/usr/bin/env");
    command.args(["--default-signal=HUP,INT", env!("CARGO_BIN_EXE_tieline")]);
    command.args(args).env_remove("RUST_LOG").env_remove("XDG_RUNTIME_DIR");
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_ascii_lowercase());
    }
    command
}

/// Copies the program into `directory`, which is made accessible and writable for every user.
pub(crate) fn copied(directory: &Path) -> PathBuf {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).expect("our directory");
    let copy = directory.join("tieline");
    executable::copy(Path::new(env!("CARGO_BIN_EXE_tieline")), &copy);
    copy
}

/// A running process whose output goes to pipes.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Said>,
    stderr: Arc<Said>,
    /// Number of bytes of stdout that were returned as lines.
    taken: usize,
}

/// The exit code of a process, and all its output.
#[derive(Debug)]
pub(crate) struct Finished {
    /// `None` if a signal killed it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with(command, Stdio::piped())
    }

    /// Like [`start`](Self::start), with the given stdin.
    #[track_caller]
    pub(crate) fn start_with(command: &mut Command, stdin: impl Into<Stdio>) -> Self {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = command.spawn();
        let mut child = started.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Said::collect(child.stdout.take().expect("piped"));
        let stderr = Said::collect(child.stderr.take().expect("piped"));
        Self { stdin: child.stdin.take(), child, stdout, stderr, taken: 0 }
    }

    /// Runs the command with this input, and waits for its exit.
    #[track_caller]
    pub(crate) fn run(command: &mut Command, stdin: impl AsRef<[u8]>) -> Finished {
        let mut program = Self::start(command);
        // The program may exit without reading the input.
        let _ = program.stdin.as_mut().expect("open").write_all(stdin.as_ref());
        program.finish()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the child has not been reaped");
    }

    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Closes the program's stdin and waits for its exit.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        self.end_input();
        self.wait()
    }

    /// Waits for the program's exit.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Finished {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            let said = self.stderr.text();
            assert!(Instant::now() < deadline, "no exit within {LIMIT:?}; stderr: {said}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let code = status.code();
        Finished { code, stdout: self.stdout.whole(), stderr: self.stderr.whole() }
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until stderr contains `text` at least `times` times.
    #[track_caller]
    pub(crate) fn wait_stderr_times(&self, text: &str, times: usize) {
        let found = |said: &str| said.matches(text).count() >= times;
        let said = self.stderr.wait_for(&format!("`{text}` {times} times on stderr"), found);
        assert!(found(&said), "exited without `{text}` {times} times on stderr: {said}");
    }

    #[track_caller]
    pub(crate) fn wait_stderr(&self, text: &str) {
        self.wait_stderr_times(text, 1);
    }
}

impl Talk for Program {
    #[track_caller]
    fn send_raw(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("stdin is open").write_all(bytes).expect("sent");
    }

    #[track_caller]
    fn line(&mut self) -> Option<String> {
        let taken = self.taken;
        let stdout = self.stdout.wait_for("a line on stdout", |said| said[taken..].contains('\n'));
        let line = stdout[taken..].lines().next()?.to_owned();
        self.taken = taken + line.len() + 1;
        Some(line)
    }
}

impl Drop for Program {
    /// Sends SIGTERM repeatedly, so that the program can stop its children, and kills it after
    /// [`LIMIT`].
    fn drop(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The output of a pipe up to now. Invalid UTF-8 is replaced with U+FFFD.
#[derive(Default)]
struct Said {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Said {
    fn collect(mut pipe: impl Read + Send + 'static) -> Arc<Self> {
        let said = Arc::new(Self::default());
        let collected = said.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let read = pipe.read(&mut buffer).unwrap_or(0);
                let mut state = collected.lock();
                state.bytes.extend_from_slice(&buffer[..read]);
                state.ended = read == 0;
                collected.more.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        said
    }

    /// Ignores poisoning: a test that times out panics with the lock held, but the bytes stay valid.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        let state = self.lock();
        String::from_utf8_lossy(&state.bytes).into_owned()
    }

    /// Waits for the end and returns everything.
    #[track_caller]
    fn whole(&self) -> String {
        self.wait_for("the end of a pipe", |_| false)
    }

    /// Returns the text when the condition holds or the pipe has ended.
    #[track_caller]
    fn wait_for(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut state = self.lock();
        loop {
            let text = String::from_utf8_lossy(&state.bytes);
            if is_so(&text) || state.ended {
                return text.into_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "timed out after {LIMIT:?}: {what}; output: {text}");
            let waited = self.more.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
