//! Starting a child: its pipes, and the job that it is in before its first instruction.

use std::fs::File;
use std::io;
use std::os::windows::io::{AsHandle, OwnedHandle};
use std::path::{Path, PathBuf};

use windows_sys::Win32::System::Threading::{CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW};

use super::command_line::{environment, of_batch_file, of_program, wide};
use super::held::Held;
use super::job::{self, Job};
use super::pipes::{self, Output, ToChild};
use super::spawn::{Command, shell, spawn};
use crate::{ErrorKind, Operation, ProcessConfig, TransportError};

/// A child that runs, and our ends of its pipes.
pub(crate) struct Started {
    pub(crate) held: Held,
    pub(crate) stdin: ToChild,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

pub(crate) async fn start(
    config: &ProcessConfig,
    program: PathBuf,
) -> Result<Started, TransportError> {
    let pipe_failed =
        |error| TransportError::new(ErrorKind::PipeFailed, Operation::Launch).because(error);
    let (stdin, theirs_in) = pipes::to_child().map_err(pipe_failed)?;
    let (stdout, theirs_out) = pipes::from_child().map_err(pipe_failed)?;
    let (stderr, theirs_err) = pipes::from_child().map_err(pipe_failed)?;
    let theirs = [theirs_in, theirs_out, theirs_err];
    // Starting a program takes milliseconds that a thread of the runtime does not have. A child that
    // nobody waits for any more goes with its job.
    let wanted = config.clone();
    let held = tokio::task::spawn_blocking(move || hold(&wanted, &program, theirs)).await;
    let held = held.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
    match held {
        Ok(held) => Ok(Started { held, stdin, stdout, stderr }),
        // What the system refuses has a number; this is our own refusal.
        Err(error)
            if error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none() =>
        {
            Err(launch_failed(error).with_hint(
                "a .cmd or .bat file is read by cmd.exe, which would misread one of the arguments; \
                 start the program that it starts",
            ))
        }
        Err(error) => Err(launch_failed(error)),
    }
}

/// The child, with its ends of the pipes.
fn hold(config: &ProcessConfig, program: &Path, theirs: [File; 3]) -> io::Result<Held> {
    // The system takes off dots and spaces at the end of a name: which program that is must be known.
    let program = std::path::absolute(plain(program))?;
    let job = Job::new()?;
    let (executable, line) = match is_batch_file(&program) {
        true => (shell()?, of_batch_file(&program, &config.args)?),
        false => (program.clone(), of_program(&program, &config.args)),
    };
    // In a group of its own Ctrl-C is not for it: it ends when its line does. Where there is no console
    // to share, none is to pop up.
    let shares_console = job::has_console();
    let window = if shares_console { 0 } else { CREATE_NO_WINDOW };
    let resolved = || environment(config.env.resolve(std::env::vars_os()));
    let (process, pid) = spawn(Command {
        program: executable.as_os_str(),
        line,
        environment: (!config.env.is_ours()).then(resolved),
        directory: config.cwd.as_deref().map(|cwd| wide(plain(cwd).as_os_str())),
        flags: CREATE_NEW_PROCESS_GROUP | window,
        stdio: theirs.map(OwnedHandle::from),
        job: job.as_handle(),
    })?;
    Ok(Held::new(job, process, pid, shares_console))
}

pub(crate) fn launch_failed(error: io::Error) -> TransportError {
    let kind = match crate::error::common_kind(&error) {
        ErrorKind::Io => ErrorKind::LaunchFailed,
        kind => kind,
    };
    TransportError::new(kind, Operation::Launch).because(error)
}

/// Without the `\\?\` that some programs do not understand in their own name. Only before a drive: what
/// else may follow it would be a relative path without it, and be looked for somewhere else.
fn plain(program: &Path) -> &Path {
    let text = program.to_str().and_then(|text| text.strip_prefix(r"\\?\"));
    let on_drive = text.filter(
        |text| matches!(text.as_bytes(), [drive, b':', b'\\', ..] if drive.is_ascii_alphabetic()),
    );
    on_drive.map_or(program, Path::new)
}

/// Whether cmd.exe reads it.
fn is_batch_file(program: &Path) -> bool {
    let ending = program.extension();
    ending.is_some_and(|it| it.eq_ignore_ascii_case("cmd") || it.eq_ignore_ascii_case("bat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_only_from_what_is_absolute_without_it() {
        for (program, expected) in [
            (r"\\?\C:\a\agent.exe", r"C:\a\agent.exe"),
            (r"C:\agent.exe", r"C:\agent.exe"),
            (r"\\?\UNC\server\share\agent.exe", r"\\?\UNC\server\share\agent.exe"),
            (r"\\?\Volume{1}\agent.exe", r"\\?\Volume{1}\agent.exe"),
            (r"\\?\C:agent.exe", r"\\?\C:agent.exe"),
        ] {
            assert_eq!(plain(Path::new(program)), Path::new(expected), "{program}");
        }
    }

    #[test]
    fn only_batch_files_are_read_by_a_shell() {
        for (program, expected) in
            [("a.cmd", true), ("a.BAT", true), ("a.exe", false), ("cmd", false)]
        {
            assert_eq!(is_batch_file(Path::new(program)), expected, "{program}");
        }
    }
}
