//! What every child process of this program starts with. All commands take it from here.

use tieline_transport::{Environment, Guardian, Options};

use crate::args::TOKEN;

/// The options that concern child processes; the others have their defaults.
pub(crate) fn options() -> Options {
    Options { guardian: Some(guardian()), env: environment(None), ..Options::default() }
}

/// The guardian of each child: this program, which `main` has prepared for that.
pub(crate) fn guardian() -> Guardian {
    Guardian::of_this_program()
}

/// The environment of a child: the variables of ours that are named in `passed`, or all of them except
/// the token of a server on the web.
pub(crate) fn environment(passed: Option<&[String]>) -> Environment {
    match passed {
        Some(names) => Environment::only(names),
        None => Environment::default().without(TOKEN),
    }
}

/// Reaps the children of other processes that come to this one, as they come to the first process of a
/// container. Ends at once where none can come.
#[cfg(target_os = "linux")]
pub(crate) async fn reap_orphans() {
    use tieline_transport::reap_orphans;
    use tokio::signal::unix::{SignalKind, signal};
    if !reap_orphans() {
        return;
    }
    match signal(SignalKind::child()) {
        // Those that ended before.
        Ok(mut ended) => while reap_orphans() && ended.recv().await.is_some() {},
        Err(error) => tracing::warn!("processes that come to this one are not reaped: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_reaches_a_child_only_when_it_is_passed_by_name() {
        let ours = || [("PATH", "/bin"), (TOKEN, "secret")].map(|(n, v)| (n.into(), v.into()));
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
