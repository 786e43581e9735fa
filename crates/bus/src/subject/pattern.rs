//! Patterns: subjects with wildcards.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{INBOX, Subject, SubjectError, check, is_reserved};

/// What a subscription matches: a subject in which `*` stands for one token, and a last token `>` for one
/// or more. Cloning is cheap.
///
/// A wildcard in the first place does not match the reserved subjects that begin with `_INBOX` or `tl`.
///
/// ```
/// use tieline_bus::Pattern;
///
/// let pattern: Pattern = "files.*.changed".parse()?;
/// assert!(pattern.matches(&"files.main.changed".parse()?));
/// assert!(!pattern.matches(&"files.changed".parse()?));
/// let all: Pattern = "files.>".parse()?;
/// assert!(all.covers(&pattern) && !pattern.covers(&all));
/// # Ok::<(), tieline_bus::SubjectError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Creates a pattern from its text.
    ///
    /// # Errors
    /// The text is not a pattern; the error says why, and what to write.
    pub fn new(text: &str) -> Result<Self, SubjectError> {
        check(text, true)?;
        Ok(Self(text.into()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tokens in order, including wildcards.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Returns whether the pattern matches the subject.
    pub fn matches(&self, subject: &Subject) -> bool {
        covers(&self.0, subject.as_str())
    }

    /// Returns whether this pattern matches every subject that the other one matches.
    pub fn covers(&self, other: &Pattern) -> bool {
        covers(&self.0, &other.0)
    }

    /// Returns whether the pattern matches inboxes.
    pub(crate) fn is_of_inboxes(&self) -> bool {
        self.tokens().next() == Some(INBOX)
    }
}

/// Compares tokens one by one. A subject is a pattern without wildcards.
fn covers(pattern: &str, other: &str) -> bool {
    let mut others = other.split('.');
    for (token, index) in pattern.split('.').zip(0..) {
        let Some(other) = others.next() else { return false };
        let is_hidden = index == 0 && is_reserved(other);
        match token {
            ">" => return !is_hidden,
            "*" if other == ">" || is_hidden => return false,
            "*" => {}
            literal if literal != other => return false,
            _ => {}
        }
    }
    others.next().is_none()
}

impl From<Subject> for Pattern {
    /// Creates the pattern that matches this subject only.
    fn from(subject: Subject) -> Self {
        Self(subject.0)
    }
}

impl FromStr for Pattern {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        Self::new(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
