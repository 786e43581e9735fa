//! `tieline serve` on a socket in a temporary directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::proc::MARK;
use super::{Client, Finished, Program, children_of, marked, tieline, until};

/// A running server. Its programs and their descendants carry a unique mark.
pub(crate) struct Serve {
    pub(crate) program: Program,
    pub(crate) endpoints: Vec<String>,
    mark: String,
    /// Dropped last, after the server has stopped using it.
    pub(crate) directory: TempDir,
}

impl Serve {
    /// Serves lines on a Unix socket. `args` are further options and, after `--`, the program.
    #[track_caller]
    pub(crate) fn start<A: AsRef<str>>(args: impl AsRef<[A]>) -> Self {
        Self::in_framings(&[""], args)
    }

    /// Serves on one Unix socket for each framing prefix, for example `content-length+`.
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

    /// Starts a command that runs a server with this many endpoints.
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
            None => panic!("the server did not start: {}", program.stderr()),
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

    /// Returns a command that connects to the server.
    pub(crate) fn connect(&self) -> Command {
        tieline(["connect", self.endpoint()])
    }

    /// Returns the server's programs and their descendants.
    pub(crate) fn processes(&self) -> Vec<u32> {
        marked(&self.mark)
    }

    /// Waits until this many processes carry the server's mark.
    #[track_caller]
    pub(crate) fn wait_processes(&self, count: usize) {
        until(&format!("{count} processes"), || self.processes().len() == count);
    }

    /// Waits until no process that the server started is left, not even a zombie.
    #[track_caller]
    pub(crate) fn wait_nothing_left(&self) {
        let pid = self.program.pid();
        until("no process is left", || self.processes().is_empty() && children_of(pid).is_empty());
    }

    /// Stops the server with SIGTERM, and checks that it leaves no socket and no process.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Finished {
        self.program.signal(rustix::process::Signal::TERM);
        let finished = self.program.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        self.assert_nothing_left();
        finished
    }

    /// Checks, after the server's exit, that it has left no socket and no process.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        for endpoint in &self.endpoints {
            assert!(!path_of(endpoint).exists(), "{endpoint} is left");
        }
        assert_eq!(self.processes(), [0; 0], "processes are left");
    }
}

/// Returns a mark that is unique on this machine.
pub(crate) fn new_mark() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

/// Returns the path of a Unix socket's endpoint.
pub(crate) fn path_of(endpoint: &str) -> PathBuf {
    let (_, path) = endpoint.split_once("unix:").expect("a Unix socket");
    Path::new(path).to_owned()
}
