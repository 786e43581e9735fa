//! `tieline serve`, on a socket in a directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::proc::MARK;
use super::{Client, Finished, Program, children_of, marked, tieline, until};

/// A running server. Everything it starts bears a mark of its own.
pub(crate) struct Serve {
    pub(crate) program: Program,
    pub(crate) endpoints: Vec<String>,
    mark: String,
    /// Dropped last, when nothing of the server is left in it.
    pub(crate) directory: TempDir,
}

impl Serve {
    /// Serves on a Unix socket in lines. `args` are further options and, behind `--`, the program.
    #[track_caller]
    pub(crate) fn start<A: AsRef<str>>(args: impl AsRef<[A]>) -> Self {
        Self::in_framings(&[""], args)
    }

    /// Serves on a Unix socket for each of these, like `content-length+`.
    #[track_caller]
    pub(crate) fn in_framings<A: AsRef<str>>(framings: &[&str], args: impl AsRef<[A]>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = tieline(["serve"]);
        for (number, framing) in framings.iter().enumerate() {
            let path = directory.path().join(format!("{number}.sock"));
            command.args(["--listen", &format!("{framing}unix:{}", path.display())]);
        }
        let mark = new_mark();
        command.args(["--env", &format!("{MARK}={mark}")]);
        command.args(args.as_ref().iter().map(AsRef::as_ref));
        Self::launch(&mut command, framings.len(), mark, directory)
    }

    /// Starts a command that is in the end a server on so many endpoints.
    #[track_caller]
    pub(crate) fn launch(
        command: &mut Command,
        endpoints: usize,
        mark: String,
        directory: TempDir,
    ) -> Self {
        use super::Talk;
        let mut program = Program::start(command);
        let endpoints = (0..endpoints).map(|_| match program.line() {
            Some(endpoint) => endpoint,
            None => panic!("it does not serve: {}", program.stderr()),
        });
        let endpoints = endpoints.collect();
        Self { program, endpoints, mark, directory }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoints[0]
    }

    pub(crate) fn path(&self) -> PathBuf {
        path_of(self.endpoint())
    }

    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.path())
    }

    /// A command that connects to it.
    pub(crate) fn connect(&self) -> Command {
        tieline(["connect", self.endpoint()])
    }

    /// All processes it started, and that were started below.
    pub(crate) fn processes(&self) -> Vec<u32> {
        marked(&self.mark)
    }

    /// Waits until that many processes bear its mark.
    #[track_caller]
    pub(crate) fn wait_processes(&self, count: usize) {
        until(&format!("{count} processes"), || self.processes().len() == count);
    }

    /// Waits until nothing that it started is left, not even a zombie.
    #[track_caller]
    pub(crate) fn wait_nothing_left(&self) {
        let pid = self.program.pid();
        until("nothing is left", || self.processes().is_empty() && children_of(pid).is_empty());
    }

    /// Ends it by SIGTERM, and checks that it leaves nothing behind.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Finished {
        self.program.signal(rustix::process::Signal::TERM);
        let finished = self.program.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        self.assert_nothing_left();
        finished
    }

    /// After its end: no socket and no process.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        for endpoint in &self.endpoints {
            assert!(!path_of(endpoint).exists(), "{endpoint} is left");
        }
        assert_eq!(self.processes(), [0; 0], "processes are left");
    }
}

/// Another for each server, on this machine and at this time.
pub(crate) fn new_mark() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

/// The path in a Unix socket's endpoint.
pub(crate) fn path_of(endpoint: &str) -> PathBuf {
    let (_, path) = endpoint.split_once("unix:").expect("a Unix socket");
    Path::new(path).to_owned()
}
