//! What the tests of the other crates share.
//!
//! - [`conformance!`] makes a test of each rule that every transport must keep.
//! - [`helper`] starts the test binary again as another process: for what can be done once per
//!   process, as another user, or with other limits.
//! - [`misbehave`] is a program that does what programs must not, and counts who is left of it.
//! - [`network`] is a transport over a network that is not there, in virtual time.
//! - [`random`] has the numbers that follow from a seed.
//! - [`session_sim`] drives two ends of a session over a virtual network.
//! - [`wait`] waits for events, with a limit that turns a hang into a failure.
//!
//! What fails here fails by a panic: these are tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod conformance;
#[cfg(any(unix, windows))]
pub mod helper;
#[cfg(target_os = "linux")]
pub mod misbehave;
pub mod network;
pub mod random;
pub mod session_sim;
pub mod wait;

pub use conformance::{Check, Subject};

/// The name of the test that this stands in, as the test harness knows it.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        $crate::test_name_of(std::any::type_name_of_val(&here))
    }};
}

/// The part of an item's path that a test harness calls the test's name.
#[doc(hidden)]
pub fn test_name_of(item: &'static str) -> String {
    let (_crate, item) = item.split_once("::").unwrap_or_default();
    item.trim_end_matches("::here").replace("::{{closure}}", "")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_test_knows_its_name() {
        assert_eq!(test_name!(), "tests::a_test_knows_its_name");
        let in_closure = || test_name!();
        assert_eq!(in_closure(), "tests::a_test_knows_its_name");
    }
}
