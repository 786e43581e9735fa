//! Options for child processes, shared by all commands.

use std::io::IsTerminal;
use std::time::Duration;

use clap::ValueEnum;
use tieline_transport::{
    ChildStderr, Environment, Guardian, Options, ProcessAccount, StderrLines, StderrSink,
};

use crate::terminal;

/// How long to wait at exit for killed processes to end.
pub(crate) const KILLED_TIMEOUT: Duration = Duration::from_secs(2);

/// The environment variable that holds the token, for clients and servers.
pub(crate) const TOKEN: &str = "TIELINE_TOKEN";

/// The environment variable that holds a client's headers, one on each line.
pub(crate) const HEADERS: &str = "TIELINE_HEADERS";
/// The environment variable that holds the password for --basic.
pub(crate) const PASSWORD: &str = "TIELINE_PASSWORD";

/// The variables with secrets, which are only for this program.
const SECRETS: [&str; 3] = [TOKEN, HEADERS, PASSWORD];

/// Returns default options, with a guardian and the environment for child processes.
pub(crate) fn options() -> Options {
    Options { guardian: Some(guardian()), env: environment(None), ..Options::default() }
}

/// Returns the guardian for children, which is this program, as prepared by `main`.
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

/// The ways to handle programs' output on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StderrMode {
    /// Written to stderr unchanged
    Passthrough,
    /// Logged line by line
    Log,
    /// Discarded
    Off,
}

/// Returns the transport's option for this mode. `account` counts the programs.
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

/// Formats a program's lines for stderr. If several programs are running, each line begins with the
/// program's name and process ID. On a terminal, control characters are escaped.
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
        // The first call reaps orphans that have already ended.
        Ok(mut ended) => while reap_orphans() && ended.recv().await.is_some() {},
        Err(error) => tracing::warn!("orphaned processes will not be reaped: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_secrets_are_passed_to_a_child_only_by_name() {
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
