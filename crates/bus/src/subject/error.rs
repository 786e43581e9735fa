//! Why a text is not a subject or pattern, and what to write.

use std::fmt;

use tieline_proto::printable;

use super::{MAX_LENGTH, MAX_TOKENS};

/// The error of a text that is not a [`Subject`](super::Subject) or [`Pattern`](super::Pattern).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectError {
    /// The beginning of the text, in readable form.
    pub(super) text: String,
    pub(super) problem: SubjectProblem,
}

impl SubjectError {
    /// Returns what is wrong.
    pub fn problem(&self) -> &SubjectProblem {
        &self.problem
    }
}

/// What is wrong with a subject or pattern. Tokens are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubjectProblem {
    /// The text is empty.
    Empty,
    /// The text is too long.
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// There are too many tokens.
    TooManyTokens {
        /// Their number.
        tokens: usize,
    },
    /// A token is empty.
    EmptyToken {
        /// Its number.
        token: usize,
    },
    /// A token contains a character that tokens cannot contain.
    Character {
        /// Its number.
        token: usize,
        /// The first such character.
        character: char,
        /// What to write instead of the token.
        encoded: String,
    },
    /// A subject contains a wildcard.
    Wildcard {
        /// The number of its token.
        token: usize,
    },
    /// A wildcard is only a part of its token.
    PartOfToken {
        /// The number of the token.
        token: usize,
    },
    /// The wildcard `>` is not the last token.
    RestNotLast {
        /// The number of its token.
        token: usize,
    },
}

impl fmt::Display for SubjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use SubjectProblem as Problem;
        if self.problem == Problem::Empty {
            let example = "Write tokens joined by dots, such as files.changed";
            return write!(f, "the subject is empty. {example}");
        }
        write!(f, "invalid subject {:?}: ", self.text)?;
        match &self.problem {
            Problem::Empty => Ok(()),
            Problem::TooLong { bytes } => {
                write!(f, "it has {bytes} bytes. Use at most {MAX_LENGTH}")
            }
            Problem::TooManyTokens { tokens } => {
                write!(f, "it has {tokens} tokens. Use at most {MAX_TOKENS}")
            }
            Problem::EmptyToken { token } => write!(
                f,
                "token {token} is empty. Write one dot between two tokens, and none at the ends"
            ),
            Problem::Character { token, character, encoded } => {
                let character = character.to_string();
                let character = printable(character.as_bytes());
                write!(
                    f,
                    "token {token} contains '{character}', and tokens consist of A-Z, a-z, 0-9, _ \
                     and -. Encode it as {encoded}"
                )
            }
            Problem::Wildcard { token } => write!(
                f,
                "token {token} is a wildcard. Wildcards are for subscriptions; publish to a subject \
                 without them"
            ),
            Problem::PartOfToken { token } => {
                write!(f, "a wildcard must be a whole token. Write * or > for token {token}")
            }
            Problem::RestNotLast { token } => write!(
                f,
                "token {token} is >, which must be the last token. Write * to match one token"
            ),
        }
    }
}

impl std::error::Error for SubjectError {}
