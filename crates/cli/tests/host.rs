//! Tests that tieline and its program end when the process that started tieline is killed, although the
//! program ignores the end of its input and writes nothing.
#![cfg(target_os = "linux")]
#![allow(clippy::incompatible_msrv, reason = "only what is published builds with the oldest Rust")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use support::*;

/// A program that prints its process ID, and then neither reads nor writes. SIGTERM ends it.
const DEAF: &str = "echo $$; exec sleep 1000";

/// A process, and the ends of its stdin and stdout that a host would hold.
struct Hosted {
    child: Child,
    to: Option<Box<dyn Write>>,
    from: Option<BufReader<Box<dyn Read>>>,
}

/// The kinds of descriptors that a host may pass as stdin and stdout.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Pipes,
    /// A socket pair for each of them, which Node.js passes.
    Sockets,
    Terminal,
}

impl Hosted {
    fn start(mut command: Command, kind: Kind) -> Self {
        let (stdin, stdout, to, from): (OwnedFd, OwnedFd, Box<dyn Write>, Box<dyn Read>);
        match kind {
            Kind::Pipes => {
                let (their_in, our_out) = std::io::pipe().unwrap();
                let (our_in, their_out) = std::io::pipe().unwrap();
                (stdin, stdout) = (their_in.into(), their_out.into());
                (to, from) = (Box::new(our_out), Box::new(our_in));
            }
            Kind::Sockets => {
                let (our_out, their_in) = UnixStream::pair().unwrap();
                let (our_in, their_out) = UnixStream::pair().unwrap();
                (stdin, stdout) = (their_in.into(), their_out.into());
                (to, from) = (Box::new(our_out), Box::new(our_in));
            }
            Kind::Terminal => {
                let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
                let terminal = openpt(flags).unwrap();
                grantpt(&terminal).unwrap();
                unlockpt(&terminal).unwrap();
                let line = ioctl_tiocgptpeer(&terminal, flags).unwrap();
                (stdin, stdout) = (line.try_clone().unwrap(), line);
                let terminal = File::from(terminal);
                (to, from) = (Box::new(terminal.try_clone().unwrap()), Box::new(terminal));
            }
        }
        let child = command.stdin(stdin).stdout(stdout).stderr(Stdio::null()).spawn().unwrap();
        // Dropping the command closes the child's ends.
        drop(command);
        Self { child, to: Some(to), from: Some(BufReader::new(from)) }
    }

    /// Returns the next line that is a number. Other lines are skipped, because a terminal echoes its
    /// input.
    fn pid(&mut self) -> u32 {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.from.as_mut().unwrap().read_line(&mut line).unwrap(), 0, "no PID");
            if let Ok(pid) = line.trim().parse() {
                return pid;
            }
        }
    }

    /// Closes the host's ends, as the kernel does when the host is killed.
    fn kill_host(&mut self) {
        self.to = None;
        self.from = None;
    }

    #[track_caller]
    fn until_ended(&mut self, what: &str) {
        let child = &mut self.child;
        until(what, || child.try_wait().unwrap().is_some());
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

#[track_caller]
fn ends_with_its_host(args: &[&str]) {
    for kind in [Kind::Pipes, Kind::Sockets, Kind::Terminal] {
        let mut hosted = Hosted::start(tieline(args), kind);
        hosted.to.as_mut().unwrap().write_all(b"hello\n").unwrap();
        let program = hosted.pid();
        assert!(is_running(program), "{kind:?}");
        hosted.kill_host();
        hosted.until_ended(&format!("{args:?} on {kind:?} ends"));
        until(&format!("the program of {args:?} on {kind:?} ends"), || !is_running(program));
    }
}

fn deaf() -> String {
    format!("exec:sh -c '{DEAF}'")
}

#[test]
fn connect_to_a_program_ends_with_its_host() {
    ends_with_its_host(&["connect", &deaf()]);
}

#[test]
fn bridge_to_a_program_ends_with_its_host() {
    ends_with_its_host(&["bridge", "stdio:", &deaf()]);
}

#[test]
fn connect_to_a_server_ends_with_its_host() {
    let serve = Serve::start(sh(DEAF));
    ends_with_its_host(&["connect", serve.endpoint()]);
    serve.stop();
}

/// The host is a shell that holds the other ends of stdin and stdout, and is killed.
#[test]
fn connect_ends_when_its_host_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name);
    let host = format!(
        "mkfifo in out; {} connect {} <in >out 2>err & exec 3>in 4<out; echo $! >pids; \
         read -r program <&4; echo $program >>pids; echo ready; exec sleep 1000",
        env!("CARGO_BIN_EXE_tieline"),
        quoted(&deaf()),
    );
    let mut command = Command::new("sh");
    command.args(["-c", &host]).current_dir(directory.path());
    let mut host = Hosted::start(command, Kind::Pipes);
    let mut ready = String::new();
    host.from.as_mut().unwrap().read_line(&mut ready).unwrap();
    let pids = std::fs::read_to_string(path("pids")).unwrap();
    let pids: Vec<u32> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_running(*pid)), "{pids:?}");
    host.child.kill().unwrap();
    for pid in pids {
        until("the processes of the host end", || !is_running(pid));
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"").replace('$', "\\$")
}

/// The response of a call can only be read from stdout.
#[test]
fn call_ends_when_its_stdout_is_closed() {
    for args in [&["call", "", "wait"][..], &["call", "", "wait", "--follow"]] {
        let said = tempfile::NamedTempFile::new().unwrap();
        let program = format!("exec:sh -c 'echo $$ >{}; exec sleep 1000'", said.path().display());
        let args: Vec<_> =
            args.iter().map(|arg| if arg.is_empty() { &*program } else { arg }).collect();
        let mut hosted = Hosted::start(tieline(&args), Kind::Pipes);
        let pid = || std::fs::read_to_string(said.path()).unwrap().trim().parse::<u32>().ok();
        until("the program runs", || pid().is_some());
        hosted.kill_host();
        hosted.until_ended(&format!("{args:?} ends"));
        until("its program ends", || !is_running(pid().unwrap()));
    }
}

/// The test keeps stdin and stdout open, so only the option can end the command.
#[test]
fn with_parent_ends_with_the_given_process() {
    let run = |args: &[&str]| {
        let mut host = Command::new("sleep").arg("1000").spawn().unwrap();
        let with_parent = format!("--with-parent={}", host.id());
        let args = [args, &[&with_parent]].concat();
        let mut hosted = Hosted::start(tieline(&args), Kind::Pipes);
        let mut said = String::new();
        hosted.from.as_mut().unwrap().read_line(&mut said).unwrap();
        assert!(!said.is_empty(), "{args:?}");
        host.kill().unwrap();
        host.wait().unwrap();
        hosted.until_ended(&format!("{args:?} ends"));
    };
    run(&["connect", &deaf()]);
    run(&["bridge", "stdio:", &deaf()]);
    let directory = tempfile::tempdir().unwrap();
    run(&["serve", "--listen", &format!("unix:{}", directory.path().join("s").display())]);
}

#[test]
fn with_parent_watches_the_parent_by_default_and_notices_an_ended_process() {
    let directory = tempfile::tempdir().unwrap();
    // The shell is the parent process, and exits after the program's first line.
    let script = format!(
        "mkfifo out; {} connect --with-parent {} 2>err >out & read -r line <out; echo $! $line",
        env!("CARGO_BIN_EXE_tieline"),
        quoted(&deaf()),
    );
    // stdin is kept open explicitly, because a shell gives a background process an empty stdin.
    let script = format!("exec 3<&0; {}", script.replace("2>err", "2>err <&3"));
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(directory.path());
    let mut host = Hosted::start(command, Kind::Pipes);
    let mut pids = String::new();
    host.from.as_mut().unwrap().read_line(&mut pids).unwrap();
    for pid in pids.split_whitespace() {
        let pid = pid.parse().unwrap();
        until("the processes of the shell end", || !is_running(pid));
    }
    let gone = Program::run(&mut tieline(["connect", "--with-parent=4194303", &deaf()]), "");
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert!(gone.stderr.contains("process 4194303 has ended"), "{gone:?}");
    let wrong = Program::run(&mut tieline(["connect", "--with-parent=0", &deaf()]), "");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}
