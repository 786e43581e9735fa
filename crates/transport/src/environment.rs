//! The environment of a child process: the variables that it inherits, and the changes to them.

use std::ffi::{OsStr, OsString};
use std::fmt;

use crate::error::ConfigError;
#[cfg(windows)]
use crate::windows::names;
use names::is_same;

/// The environment variables of a child process.
///
/// By default, a child inherits all variables of this process. [`empty`](Self::empty) and
/// [`only`](Self::only) start with fewer variables; [`with`](Self::with) and [`without`](Self::without)
/// change single variables, and the last change of a variable wins.
///
/// `Debug` shows only names, because values are often secrets. Omitting a variable does not keep it
/// secret from the child: a process of the same user can read the environment of this process.
///
/// ```
/// use tieline_transport::Environment;
///
/// let env = Environment::only(["PATH", "HOME"]).with("LANG", "C").without("HOME");
/// let ours = [("PATH", "/bin"), ("HOME", "/"), ("TOKEN", "hush")];
/// let ours = ours.map(|(name, value)| (name.into(), value.into()));
/// assert_eq!(env.resolve(ours), [("PATH".into(), "/bin".into()), ("LANG".into(), "C".into())]);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The inherited names; `None` inherits all.
    kept: Option<Vec<OsString>>,
    /// The changes, in the order of the calls. A change without a value removes the variable.
    changes: Vec<(OsString, Option<OsString>)>,
}

impl Environment {
    /// Returns an environment without variables, except for `SystemRoot` on Windows, which many programs
    /// need to start. [`without`](Self::without) removes that as well.
    pub fn empty() -> Self {
        Self { kept: Some(Vec::new()), changes: Vec::new() }
    }

    /// Returns an environment that inherits only the variables with these names, and on Windows also
    /// `SystemRoot`.
    pub fn only<N: Into<OsString>>(names: impl IntoIterator<Item = N>) -> Self {
        let kept = names.into_iter().map(Into::into).collect();
        Self { kept: Some(kept), changes: Vec::new() }
    }

    /// Sets a variable.
    #[must_use]
    pub fn with(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.changes.push((name.into(), Some(value.into())));
        self
    }

    /// Removes a variable, if it exists.
    #[must_use]
    pub fn without(mut self, name: impl Into<OsString>) -> Self {
        self.changes.push((name.into(), None));
        self
    }

    /// Applies the changes of `defaults` before its own.
    #[must_use]
    pub fn with_defaults(mut self, defaults: Self) -> Self {
        self.changes.splice(..0, defaults.changes);
        self
    }

    /// Returns the variables that are set in addition to the inherited ones, in the order of the calls.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let counts = |at: usize, name: &OsString| {
            !self.changes.iter().skip(at + 1).any(|(later, _)| is_same(later, name))
        };
        let changes = self.changes.iter().enumerate();
        changes.filter_map(move |(at, (name, value))| {
            let value = value.as_ref().filter(|_| counts(at, name))?;
            Some((name.as_os_str(), value.as_os_str()))
        })
    }

    /// Returns true if the child inherits all variables unchanged.
    pub fn is_ours(&self) -> bool {
        self.kept.is_none() && self.changes.is_empty()
    }

    /// Returns all variables of the child. `ours` are the variables of this process.
    pub fn resolve(
        &self,
        ours: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        let is_kept = |name: &OsString| {
            let is_always = || names::ALWAYS.iter().any(|it| is_same(it.as_ref(), name));
            let is_one = |kept: &Vec<OsString>| kept.iter().any(|it| is_same(it, name));
            self.kept.as_ref().is_none_or(|kept| is_one(kept) || is_always())
                && !self.changes.iter().any(|(changed, _)| is_same(changed, name))
        };
        let kept = ours.into_iter().filter(|(name, _)| is_kept(name));
        kept.chain(self.iter().map(|(name, value)| (name.into(), value.into()))).collect()
    }

    /// Checks that the operating system can represent all names and values.
    ///
    /// # Errors
    /// A name is empty or contains a `=`, or a name or value contains a NUL byte.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let has = |text: &OsStr, byte| text.as_encoded_bytes().contains(&byte);
        let is_name = |name: &OsString| !name.is_empty() && !has(name, b'=') && !has(name, 0);
        let is_value = |value: &Option<OsString>| !value.as_ref().is_some_and(|it| has(it, 0));
        let is_change = |(name, value): &(_, _)| is_name(name) && is_value(value);
        if self.kept.iter().flatten().all(is_name) && self.changes.iter().all(is_change) {
            return Ok(());
        }
        Err(ConfigError { field: "env", must: "have names without `=`, and no NUL bytes" })
    }
}

#[cfg(not(windows))]
mod names {
    use std::ffi::OsStr;

    /// Variables that every child inherits unless they are removed by name.
    pub(super) const ALWAYS: [&str; 0] = [];

    pub(super) fn is_same(one: &OsStr, other: &OsStr) -> bool {
        one == other
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let set = |(name, value): (N, V)| (name.into(), Some(value.into()));
        Self { kept: None, changes: variables.into_iter().map(set).collect() }
    }
}

/// Variables that are set are shown as `{"A", "B"}`, and removed ones as `!"C"`. A list of inherited
/// names follows the word `only`.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kept) = &self.kept {
            write!(f, "only {kept:?} + ")?;
        }
        let changes = self.changes.iter().map(|(name, value)| match value {
            Some(_) => format!("{name:?}"),
            None => format!("!{name:?}"),
        });
        write!(f, "{{{}}}", changes.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(env: &Environment) -> String {
        let ours = [("A", "1"), ("B", "2"), ("C", "3")].map(|(n, v)| (n.into(), v.into()));
        let all = env.resolve(ours).into_iter();
        let all = all.map(|(name, value)| format!("{}={}", name.display(), value.display()));
        all.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn environment_combines_kept_removed_and_set_variables() {
        let ours = Environment::default;
        for (env, expected) in [
            (ours(), "A=1 B=2 C=3"),
            (ours().with("B", "x"), "A=1 C=3 B=x"),
            (ours().with("B", ""), "A=1 C=3 B="),
            (ours().without("B").without("no such"), "A=1 C=3"),
            (ours().without("B").with("B", "back"), "A=1 C=3 B=back"),
            (ours().with("B", "x").without("B"), "A=1 C=3"),
            (ours().with("D", "x").with("D", "y"), "A=1 B=2 C=3 D=y"),
            (Environment::empty(), ""),
            (Environment::empty().with("D", "x"), "D=x"),
            (Environment::only(["C", "A", "Z"]), "A=1 C=3"),
            (Environment::only(["C", "A"]).without("C"), "A=1"),
            (Environment::only(["a"]), if cfg!(windows) { "A=1" } else { "" }),
            ([("D", "x")].into_iter().collect(), "A=1 B=2 C=3 D=x"),
            (
                ours().with("A", "mine").with_defaults(ours().with("A", "x").without("B")),
                "C=3 A=mine",
            ),
            (Environment::only(["B"]).with_defaults(ours().with("D", "x")), "B=2 D=x"),
        ] {
            assert_eq!(resolved(&env), expected, "{env:?}");
        }
        assert!(ours().is_ours() && !ours().without("A").is_ours());
        assert!(!Environment::empty().is_ours());
    }

    #[test]
    fn debug_hides_values_and_invalid_names_are_refused() {
        let env: Environment = [("TOKEN", "hush"), ("EMPTY", "")].into_iter().collect();
        assert_eq!(env.validate(), Ok(()));
        assert_eq!(format!("{env:?}"), r#"{"TOKEN", "EMPTY"}"#);
        let env = Environment::only(["PATH"]).with("TOKEN", "hush").without("X");
        assert_eq!(format!("{env:?}"), r#"only ["PATH"] + {"TOKEN", !"X"}"#);
        assert_eq!(env.validate(), Ok(()));
        for name in ["", "A=B", "A\0"] {
            for env in [
                Environment::default().with(name, "v"),
                Environment::default().without(name),
                Environment::only([name]),
            ] {
                assert_eq!(env.validate().unwrap_err().field, "env");
            }
        }
        assert!(Environment::default().with("A", "v\0").validate().is_err());
    }
}
