//! Runs a test command and forwards its output, except for the parts about failures, which are held back
//! because they depend on the second attempt.

use std::env;
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{self, Failed, RESULT, TestOutcome, results};
use crate::processes::end_tree;
use crate::{Failure, failed};

/// The output of a test command and its exit status.
#[derive(Default)]
pub(super) struct Said {
    /// The lines that name tests, and the lines that are held back.
    pub(super) text: String,
    /// The lines that are held back, byte for byte.
    pub(super) held: Vec<u8>,
    /// The exit status. Without one, `why` contains the reason.
    pub(super) code: Option<i32>,
    pub(super) why: String,
}

impl Said {
    /// Returns the failures of the command, which are none if all tests passed.
    pub(super) fn failures(&self) -> Vec<Failed> {
        harness::failures(&self.text, self.code.ok_or(self.why.as_str()))
    }

    pub(super) fn passed(&self, test: &str) -> bool {
        results(&self.text).any(|it| it == (test, TestOutcome::Passed))
    }
}

/// A function that decides whether a command that has printed nothing for the given time hangs.
pub(super) type Hangs<'a> = &'a dyn Fn(Duration) -> bool;

/// Returns whether a command hangs, by default. Deadlines in tests are a minute or two, and only a soak
/// test may take an hour.
pub(super) fn hangs(quiet: Duration) -> bool {
    quiet > Duration::from_secs(15 * 60) && env::var_os("TIELINE_SOAK").is_none()
}

/// Runs the command and passes its stdout to `show`. If it hangs, it is killed with its descendants.
pub(super) fn watch(
    command: &mut Command,
    hangs: Hangs<'_>,
    mut show: impl FnMut(&[u8]),
) -> Result<Said, Failure> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("{}: {error}", command.get_program().to_string_lossy())))?;
    let output = chunks(&mut child);
    let mut lines = Lines::default();
    let end = read(&mut child, &output, hangs, |chunk| lines.push(chunk, &mut show));
    lines.finish(&mut show);
    let Lines { held, text, .. } = lines;
    let mut said = Said { text, held, ..Said::default() };
    match end.map_err(|error| failed(format!("cannot wait for a test: {error}")))? {
        Some(status) => {
            said.code = status.code();
            said.why = format!("ended by {status}");
        }
        None => said.why = hung(&said.text),
    }
    Ok(said)
}

/// Returns the exit status, or `None` if the command hung and was killed.
fn read(
    child: &mut Child,
    output: &Receiver<Vec<u8>>,
    hangs: Hangs<'_>,
    mut take: impl FnMut(&[u8]),
) -> io::Result<Option<ExitStatus>> {
    let mut last = Instant::now();
    let mut ended = None;
    loop {
        match output.recv_timeout(LOOK) {
            Ok(chunk) => {
                last = Instant::now();
                take(&chunk);
            }
            Err(RecvTimeoutError::Disconnected) => {
                return ended.map_or_else(|| child.wait(), Ok).map(Some);
            }
            // A process that the command left behind may keep the pipe open.
            Err(RecvTimeoutError::Timeout) if ended.is_some() => return Ok(ended),
            Err(RecvTimeoutError::Timeout) => {
                ended = child.try_wait()?;
                if ended.is_none() && hangs(last.elapsed()) {
                    end_tree(child);
                    return Ok(None);
                }
            }
        }
    }
}

/// The interval of the checks whether the command has exited although its stdout is still open.
const LOOK: Duration = Duration::from_millis(200);

fn chunks(child: &mut Child) -> Receiver<Vec<u8>> {
    let (send, receive) = sync_channel(64);
    let stdout = child.stdout.take();
    thread::spawn(move || {
        let Some(mut stdout) = stdout else { return };
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            let chunk = buffer.get(..count).unwrap_or_default();
            if send.send(chunk.to_vec()).is_err() {
                break;
            }
        }
    });
    receive
}

/// Describes the failure of a killed command, with the tests that were running if the harness reported
/// them.
fn hung(text: &str) -> String {
    let ended: Vec<&str> = results(text).map(|(test, _)| test).collect();
    let busy = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(SLOW));
    let busy: Vec<&str> = busy.filter(|test| !ended.contains(test)).collect();
    let busy = if busy.is_empty() { "unknown".into() } else { busy.join(", ") };
    format!("hung, and was killed (running: {busy})")
}

const SLOW: &str = " has been running for over 60 seconds";

/// Separates the lines that can be shown at once from those about failures.
#[derive(Default)]
struct Lines {
    /// An incomplete line.
    part: Vec<u8>,
    held: Vec<u8>,
    text: String,
    /// Whether the current line is between the heading of the failures and the closing line.
    holds: bool,
}

impl Lines {
    fn push(&mut self, chunk: &[u8], show: &mut impl FnMut(&[u8])) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.part.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.line(show);
            }
        }
    }

    fn finish(&mut self, show: &mut impl FnMut(&[u8])) {
        if !self.part.is_empty() {
            self.line(show);
        }
    }

    fn line(&mut self, show: &mut impl FnMut(&[u8])) {
        let bytes = std::mem::take(&mut self.part);
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        let is_failed = results(line).any(|(_, outcome)| outcome == TestOutcome::Failed);
        self.holds |= line == "failures:";
        if self.holds || is_failed || line.starts_with("test ") || harness::is_opening(line) {
            self.text.push_str(line);
            self.text.push('\n');
        }
        match self.holds || is_failed {
            true => self.held.extend_from_slice(&bytes),
            false => show(&bytes),
        }
        self.holds &= !line.starts_with(RESULT);
    }
}
