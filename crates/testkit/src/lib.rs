//! Utilities for the tests of the other crates.
//!
//! - `clock` (feature `clock`) contains clocks for tests that measure time on real sockets.
//! - [`conformance!`] creates a test for each rule that every transport must follow.
//! - [`helper`] starts the test binary again as another process, for actions that are possible only once
//!   per process, as another user, or with other limits.
//! - [`misbehave`] provides a program that violates the rules for child processes, and finds the
//!   processes of that program that survive.
//! - [`network`] is a transport over a simulated network, in virtual time.
//! - [`random`] generates numbers from a seed.
//! - [`duplex`] makes channels over byte streams in memory.
//! - [`session_sim`] drives two ends of a session over a virtual network.
//! - [`wait`] waits for events, with a limit that turns a hang into a failure.
//!
//! These utilities panic when they fail, because they are parts of tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(feature = "clock")]
pub mod clock;
pub mod conformance;
pub mod duplex;
#[cfg(unix)]
pub mod executable;
#[cfg(any(unix, windows))]
pub mod helper;
#[cfg(target_os = "linux")]
pub mod misbehave;
pub mod network;
pub mod random;
pub mod session_sim;
pub mod wait;

pub use conformance::{Check, Subject};

/// Returns the name that the test harness uses for the enclosing test.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        $crate::test_name_of(std::any::type_name_of_val(&here))
    }};
}

/// Returns the part of an item's path that the test harness uses as the name of the test.
#[doc(hidden)]
pub fn test_name_of(item: &'static str) -> String {
    let (_crate, item) = item.split_once("::").unwrap_or_default();
    item.trim_end_matches("::here").replace("::{{closure}}", "")
}

#[cfg(test)]
mod tests {
    #[test]
    fn test_name_is_the_path_of_the_test() {
        assert_eq!(test_name!(), "tests::test_name_is_the_path_of_the_test");
        let in_closure = || test_name!();
        assert_eq!(in_closure(), "tests::test_name_is_the_path_of_the_test");
    }
}
