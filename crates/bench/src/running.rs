//! Another process, which is controlled by lines on stdin and stdout.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::compare::Result;

/// A running process, which is killed on drop.
pub(crate) struct Running {
    child: Child,
    /// The process exits when this is closed, and therefore also when our process is killed.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is sent to our process only. The other process then cleans up and exits.
            .process_group(0)
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = BufReader::new(stdout.ok_or("the process has no stdout")?);
        Ok(Self { child, stdin, stdout })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line to the process.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().ok_or("the process has no stdin")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    /// Receives a line from the process. Fails if the process has ended.
    pub(crate) fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line)? {
            0 => Err("the process has ended".into()),
            _ => Ok(line.trim_end_matches('\n').to_owned()),
        }
    }

    /// Closes the input of the process and waits until it exits.
    pub(crate) fn finish(mut self) -> Result<()> {
        drop(self.stdin.take());
        match self.child.wait()?.success() {
            true => Ok(()),
            false => Err("the process failed".into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
