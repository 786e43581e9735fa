//! Starting a child with its pipes, in a job from its first instruction.

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
use crate::error::{ErrorKind, Operation, TransportError};
use crate::process::config::ProcessConfig;

/// A running child, and our ends of its pipes.
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
    // Starting a program blocks for milliseconds, which a runtime thread cannot afford. If the future is
    // dropped, the child is killed with its job.
    let wanted = config.clone();
    let held = tokio::task::spawn_blocking(move || hold(&wanted, &program, theirs)).await;
    let held = held.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
    match held {
        Ok(held) => Ok(Started { held, stdin, stdout, stderr }),
        // The system's errors have a code. This one comes from `of_batch_file`.
        Err(error)
            if error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none() =>
        {
            Err(launch_failed(error).with_hint(
                "cmd.exe reads .cmd and .bat files and would misread one of the arguments; start the \
                 program directly that the file starts",
            ))
        }
        Err(error) => Err(launch_failed(error)),
    }
}

/// Starts the child with its ends of the pipes.
fn hold(config: &ProcessConfig, program: &Path, theirs: [File; 3]) -> io::Result<Held> {
    // The system removes dots and spaces at the end of a name, so this determines which program is
    // started.
    let program = std::path::absolute(plain(program))?;
    let job = Job::new()?;
    let (executable, line) = match is_batch_file(&program) {
        true => (shell()?, of_batch_file(&program, &config.args)?),
        false => (program.clone(), of_program(&program, &config.args)),
    };
    // In its own process group, the child does not receive Ctrl-C, and ends only when its line ends. If
    // there is no console to share, no window must appear.
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

/// Removes the `\\?\` prefix, which some programs do not understand in their own name. It is removed
/// only before a drive: any other path would become a relative one.
fn plain(program: &Path) -> &Path {
    let text = program.to_str().and_then(|text| text.strip_prefix(r"\\?\"));
    let on_drive = text.filter(
        |text| matches!(text.as_bytes(), [drive, b':', b'\\', ..] if drive.is_ascii_alphabetic()),
    );
    on_drive.map_or(program, Path::new)
}

/// Returns true if cmd.exe must run the file.
fn is_batch_file(program: &Path) -> bool {
    let ending = program.extension();
    ending.is_some_and(|it| it.eq_ignore_ascii_case("cmd") || it.eq_ignore_ascii_case("bat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_removed_only_from_drive_paths() {
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
    fn only_batch_files_need_a_shell() {
        for (program, expected) in
            [("a.cmd", true), ("a.BAT", true), ("a.exe", false), ("cmd", false)]
        {
            assert_eq!(is_batch_file(Path::new(program)), expected, "{program}");
        }
    }
}
