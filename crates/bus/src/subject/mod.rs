//! Subjects, which messages are published to, and patterns, which subscriptions match subjects with.

mod error;
mod name;
mod pattern;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tieline_proto::printable;

pub use error::{SubjectError, SubjectProblem};
pub use name::{decode_token, encode_token};
pub use pattern::Pattern;

/// The maximum number of tokens in a subject or pattern.
pub const MAX_TOKENS: usize = 16;

/// The maximum length of a subject or pattern, in bytes.
pub const MAX_LENGTH: usize = 255;

/// The first token of the subjects that answers are published to. Each belongs to one request.
pub(crate) const INBOX: &str = "_INBOX";

/// The first token of tieline's own subjects.
const INTERNAL: &str = "tl";

/// The name that a message is published to: tokens joined by dots, such as `files.changed`.
///
/// A token consists of the characters `A`–`Z`, `a`–`z`, `0`–`9`, `_` and `-`. A subject has at most 16
/// tokens and 255 bytes, and case is significant. Names with other characters become tokens with
/// [`encode_token`], or with [`from_names`](Self::from_names). Cloning is cheap.
///
/// Subjects that begin with `_INBOX` belong to requests, and those that begin with `tl` to tieline
/// itself. A pattern matches them only if it begins with the same token, not with a wildcard.
///
/// ```
/// use tieline_bus::Subject;
///
/// let subject: Subject = "files.changed".parse()?;
/// assert_eq!(subject.tokens().count(), 2);
/// assert_eq!(Subject::from_names(["calls", "tools/call"])?.as_str(), "calls.x-orxw63dtf5rwc3dm");
/// let error = "files.*".parse::<Subject>().unwrap_err();
/// assert!(error.to_string().contains("wildcard"));
/// # Ok::<(), tieline_bus::SubjectError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

impl Subject {
    /// Creates a subject from its text.
    ///
    /// # Errors
    /// The text is not a subject; the error says why, and what to write.
    pub fn new(text: &str) -> Result<Self, SubjectError> {
        check(text, false)?;
        Ok(Self(text.into()))
    }

    /// Creates a subject with one token for each name. Names that are not tokens are
    /// [encoded](encode_token).
    ///
    /// # Errors
    /// There is no name, or the subject has too many tokens or bytes.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, SubjectError> {
        let tokens: Vec<_> = names.into_iter().map(encode_token).collect();
        Self::new(&tokens.join("."))
    }

    /// Creates a subject that is one token.
    pub(crate) fn from_token(token: &str) -> Result<Self, SubjectError> {
        let tokens = token.split('.').count();
        match Self::new(token)? {
            subject if tokens == 1 => Ok(subject),
            _ => {
                let text = printable(shown(token)).into_owned();
                let encoded = encode_token(token);
                let problem = SubjectProblem::Character { token: 1, character: '.', encoded };
                Err(SubjectError { text, problem })
            }
        }
    }

    /// Creates the subject to which the answer of a request is published.
    pub(crate) fn inbox(request: u64) -> Self {
        // By hand, because formatting costs an allocation and most of the time of a request.
        let mut text = *b"_INBOX.00000000000000000000";
        let (mut at, mut rest) = (text.len(), request);
        let prefix = INBOX.len() + 1;
        while let Some(digit) = text.get_mut(prefix..at).and_then(<[u8]>::last_mut) {
            *digit = b'0' + (rest % 10) as u8;
            (at, rest) = (at - 1, rest / 10);
            if rest == 0 {
                break;
            }
        }
        text.copy_within(at.., prefix);
        let length = prefix + text.len() - at;
        let text = text.get(..length).and_then(|it| std::str::from_utf8(it).ok());
        Self(text.unwrap_or(INBOX).into())
    }

    /// Returns the request to which an answer on this subject belongs: `None` if the subject is not an
    /// inbox, and `Some(None)` if no inbox has this name.
    pub(crate) fn inbox_of(&self) -> Option<Option<u64>> {
        let rest = self.0.strip_prefix(INBOX)?;
        match rest.strip_prefix('.') {
            Some(number) => Some(number.parse().ok()),
            None if rest.is_empty() => Some(None),
            None => None,
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text, which is shared.
    pub(crate) fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// Returns the tokens in order.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        Self::new(text)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Returns whether the token begins subjects that wildcards do not match.
pub(crate) fn is_reserved(first: &str) -> bool {
    first == INTERNAL || first == INBOX
}

/// Checks the text of a subject, or of a pattern.
fn check(text: &str, wildcards: bool) -> Result<(), SubjectError> {
    let error = |problem| SubjectError { text: printable(shown(text)).into_owned(), problem };
    if text.is_empty() {
        return Err(error(SubjectProblem::Empty));
    }
    if text.len() > MAX_LENGTH {
        return Err(error(SubjectProblem::TooLong { bytes: text.len() }));
    }
    let count = text.split('.').count();
    if count > MAX_TOKENS {
        return Err(error(SubjectProblem::TooManyTokens { tokens: count }));
    }
    for (token, number) in text.split('.').zip(1..) {
        check_token(token, number, number == count, wildcards).map_err(error)?;
    }
    Ok(())
}

fn check_token(
    token: &str,
    number: usize,
    is_last: bool,
    wildcards: bool,
) -> Result<(), SubjectProblem> {
    match token {
        "" => return Err(SubjectProblem::EmptyToken { token: number }),
        "*" | ">" if !wildcards => return Err(SubjectProblem::Wildcard { token: number }),
        "*" => return Ok(()),
        ">" if is_last => return Ok(()),
        ">" => return Err(SubjectProblem::RestNotLast { token: number }),
        _ => {}
    }
    match token.chars().find(|it| !is_token_character(*it)) {
        None => Ok(()),
        Some('*' | '>') if wildcards => Err(SubjectProblem::PartOfToken { token: number }),
        Some(character) => {
            let encoded = encode_token(token);
            Err(SubjectProblem::Character { token: number, character, encoded })
        }
    }
}

fn is_token_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '-')
}

/// Returns the part of a text that errors show.
fn shown(text: &str) -> &[u8] {
    text.as_bytes().get(..80).unwrap_or(text.as_bytes())
}

#[cfg(test)]
mod tests;
