//! Options for child processes, shared by all commands.

use std::io::IsTerminal;
use std::time::Duration;

use clap::ValueEnum;
use tieline_transport::{
    ChildStderr, Environment, Guardian, Options, ProcessAccount, StderrLines, StderrSink,
};

use crate::terminal;

/// How long exiting waits for killed processes to be gone.
pub(crate) const KILLED_TIMEOUT: Duration = Duration::from_secs(2);

/// The environment variable that holds the token, for clients and servers.
pub(crate) const TOKEN: &str = "TIELINE_TOKEN";

/// The environment variables that hold a client's headers, one on each line, and the password of --basic.
pub(crate) const HEADERS: &str = "TIELINE_HEADERS";
pub(crate) const PASSWORD: &str = "TIELINE_PASSWORD";

/// The variables with secrets that are for this program only.
const SECRETS: [&str; 3] = [TOKEN, HEADERS, PASSWORD];

/// Returns default options, with a guardian and the environment for child processes.
pub(crate) fn options() -> Options {
    Options { guardian: Some(guardian()), env: environment(None), ..Options::default() }
}

/// Returns the guardian for children: this program, as prepared by `main`.
pub(crate) fn guardian() -> Guardian {
    Guardian::of_this_program()
}

/// Returns a child's environment: the variables named in `passed`, or all except the secrets for the web.
pub(crate) fn environment(passed: Option<&[String]>) -> Environment {
    match passed {
        Some(names) => Environment::only(names),
        None => SECRETS.into_iter().fold(Environment::default(), Environment::without),
    }
}

/// What happens to what programs write to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StderrMode {
    /// Written to stderr as it is
    Passthrough,
    /// Logged line by line
    Log,
    /// Discarded
    Off,
}

/// Returns the option of the transport. `account` counts the programs.
pub(crate) fn stderr(mode: StderrMode, account: &ProcessAccount) -> ChildStderr {
    match mode {
        StderrMode::Log => ChildStderr::Log,
        StderrMode::Off => ChildStderr::Discard,
        StderrMode::Passthrough => {
            let (account, is_terminal) = (account.clone(), std::io::stderr().is_terminal());
            ChildStderr::PassOn(StderrSink::new(move |lines| {
                let is_one_of_several = account.counts().under_way() > 1;
                crate::stderr::say(&passed_on(lines, is_one_of_several, is_terminal));
            }))
        }
    }
}

/// Returns what is written to stderr: the lines as they are, with the program's name in front if several run, and
/// with control characters escaped on a terminal.
fn passed_on(lines: StderrLines<'_>, is_one_of_several: bool, is_terminal: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(lines.text.len());
    for line in lines.text.split_inclusive(|byte| *byte == b'\n') {
        if is_one_of_several {
            text.extend_from_slice(format!("{}[{}]: ", lines.program, lines.pid).as_bytes());
        }
        text.extend_from_slice(line);
    }
    if is_terminal { terminal::lines(&text) } else { text }
}

/// Reaps orphans that are reparented to this process, for example when it is PID 1 of a container. Returns
/// at once if that cannot happen.
#[cfg(target_os = "linux")]
pub(crate) async fn reap_orphans() {
    use tieline_transport::reap_orphans;
    use tokio::signal::unix::{SignalKind, signal};
    if !reap_orphans() {
        return;
    }
    match signal(SignalKind::child()) {
        // The first call reaps those that have already ended.
        Ok(mut ended) => while reap_orphans() && ended.recv().await.is_some() {},
        Err(error) => tracing::warn!("orphaned processes will not be reaped: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_for_the_web_reach_a_child_only_if_passed_by_name() {
        let secrets = [(TOKEN, "secret"), (HEADERS, "X: secret"), (PASSWORD, "secret")];
        let ours = || {
            let all = [("PATH", "/bin")].into_iter().chain(secrets);
            all.map(|(name, value)| (name.into(), value.into())).collect::<Vec<_>>()
        };
        let names = |env: Environment| {
            env.resolve(ours()).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let always: &[&str] = &[];
        assert_eq!(names(options().env), ["PATH"]);
        assert_eq!(names(environment(None)), ["PATH"]);
        assert_eq!(names(environment(Some(&[]))), always);
        assert_eq!(names(environment(Some(&["PATH".into()]))), ["PATH"]);
        assert_eq!(names(environment(Some(&[TOKEN.into()]))), [TOKEN]);
    }
}
