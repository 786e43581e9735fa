//! Names of the things that clients open and close.

use bytes::Bytes;

/// What identifies a thing: the place of its kind in the dialect's list, and its name without escapes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) place: usize,
    pub(super) text: Bytes,
}

impl Name {
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}
