//! The parts of the library that a build lacks because a Cargo feature is disabled.

use std::fmt;

/// A part of the library that this build lacks. See
/// [`Registry::register_missing`](crate::Registry::register_missing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingFeature {
    /// The name of the missing part, such as `"TLS"`.
    pub what: &'static str,
    /// The Cargo feature of the crate `tieline` that adds it.
    pub feature: &'static str,
}

impl fmt::Display for MissingFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, feature } = self;
        write!(f, "this build lacks {what}; enable the feature \"{feature}\" of the crate tieline")
    }
}
