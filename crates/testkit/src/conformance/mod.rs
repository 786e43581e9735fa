//! The rules that every transport must follow, with one check for each.
//!
//! The peer of a line under test echoes every byte, and ends when its input ends. The same checks
//! ([`mod@line`]) therefore work for a child process such as `cat` and for a transport that can listen.
//! Checks that use both ends ([`listening`]) are only for transports that can listen.
//!
//! ```
//! use tieline_testkit::{Subject, conformance};
//! use tieline_transport::{Endpoint, Memory};
//!
//! conformance!(memory, listening, |check| {
//!     check.run(Subject::listening(Memory::default(), Endpoint::memory("agent")))
//! });
//! # fn main() {}
//! ```
//!
//! This creates one test for each check, such as `memory::bytes_are_echoed_unchanged`. The closure is
//! called once for each test, and each test has its own endpoint.

mod bytes;
mod ends;
pub mod line;
pub mod listening;
mod messages;
mod subject;

use std::future::Future;
use std::pin::Pin;

pub use subject::Subject;

use crate::wait::block_on;

/// A check of one rule.
pub struct Check {
    test: String,
    run: fn(Subject) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Check {
    #[doc(hidden)]
    pub fn new(test: String, run: fn(Subject) -> Pin<Box<dyn Future<Output = ()> + Send>>) -> Self {
        Self { test, run }
    }

    /// Returns the name of the test.
    pub fn test(&self) -> &str {
        &self.test
    }

    /// Runs the check. Panics if the subject violates the rule.
    pub fn run(&self, subject: Subject) {
        block_on((self.run)(subject));
    }
}

/// Creates a module with one test for each check. `listening` selects all checks, for a transport that
/// can listen; `echoing` selects only the line checks, for a transport whose peer echoes. The last
/// argument is called with each [`Check`].
#[macro_export]
macro_rules! conformance {
    ($module:ident, listening, $run:expr) => {
        mod $module {
            use super::*;
            $crate::line_checks!($run);
            $crate::listening_checks!($run);
        }
    };
    ($module:ident, echoing, $run:expr) => {
        mod $module {
            use super::*;
            $crate::line_checks!($run);
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! line_checks {
    ($run:expr) => {
        $crate::checks!($run, line:
            bytes_are_echoed_unchanged
            mebibyte_in_both_directions_through_small_buffers
            end_of_input_reaches_the_peer_and_its_response_still_arrives
            info_describes_the_line_and_counts_bytes
            receive_times_out_and_loses_nothing
            close_returns_the_reason_and_health_is_down
            dropping_the_write_half_ends_the_peers_input
            dropping_both_halves_ends_the_line
            messages_arrive_whole_and_in_order
            dropped_recv_loses_nothing
            dropped_send_has_queued_all_or_nothing
            bad_message_is_a_fault_and_the_line_continues
            oversize_message_is_a_fault_and_the_line_continues
            unsendable_message_affects_only_itself
            tasks_sharing_a_sender_never_tear_messages
            end_can_be_read_repeatedly
            peer_that_does_not_read_ends_the_line_as_stalled
            flush_without_progress_ends_the_line_as_stalled
            close_without_progress_ends_the_line_as_stalled
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! listening_checks {
    ($run:expr) => {
        $crate::checks!($run, listening:
            connecting_to_nothing_is_not_found_or_refused
            listening_twice_is_address_in_use
            dropped_accept_loses_no_connection
            both_ends_identify_each_other
            bulk_data_in_both_directions
            one_direction_ends_while_the_other_continues
            data_written_before_the_end_is_read_later
            dropped_end_is_end_of_input_for_the_other
            end_between_messages_is_clean
            end_inside_a_message_is_truncation
            stall_wakes_a_waiting_receiver
            closed_peer_is_noticed_and_half_closed_peer_is_not
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! checks {
    ($run:expr, $group:ident: $($check:ident)+) => {
        $(
            #[test]
            fn $check() {
                let run: fn($crate::Check) = $run;
                run($crate::Check::new($crate::test_name!(), |subject| {
                    Box::pin($crate::conformance::$group::$check(subject))
                }));
            }
        )+
    };
}
