//! What every transport must keep, one check for each rule.
//!
//! The far side of a line under test gives back every byte, and ends when its input does: so one
//! set of checks ([`mod@line`]) fits a child process like `cat` and a transport that listens. What takes
//! both ends in hand ([`listening`]) is for those that listen.
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
//! makes the tests `memory::bytes_go_there_and_back` and so on. The closure is called for each, with
//! a place of its own each time.

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

/// One rule.
pub struct Check {
    test: String,
    run: fn(Subject) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Check {
    #[doc(hidden)]
    pub fn new(test: String, run: fn(Subject) -> Pin<Box<dyn Future<Output = ()> + Send>>) -> Self {
        Self { test, run }
    }

    /// The name of the test that checks it.
    pub fn test(&self) -> &str {
        &self.test
    }

    /// Panics where the subject breaks the rule.
    pub fn run(&self, subject: Subject) {
        block_on((self.run)(subject));
    }
}

/// Makes a module of tests, one for each check: all of them for a transport that is `listening`,
/// those of a line for one whose far side is `echoing`. The last argument is called with each
/// [`Check`].
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
            bytes_go_there_and_back
            a_mebibyte_goes_both_ways_at_once_through_small_buffers
            the_end_of_input_reaches_the_far_side_and_its_answer_still_arrives
            info_says_what_it_is_and_counts_what_moves
            receive_times_out_and_loses_nothing
            close_says_why_and_health_goes_down
            dropping_the_writing_half_is_the_far_sides_end_of_input
            dropping_both_halves_ends_the_line
            messages_come_whole_and_in_order
            recv_dropped_half_way_loses_nothing
            send_dropped_half_way_has_queued_all_or_nothing
            one_bad_message_is_a_fault_and_the_line_goes_on
            an_oversize_message_is_a_fault_and_the_line_goes_on
            a_message_that_cannot_be_sent_costs_only_itself
            many_tasks_share_a_sender_and_no_message_is_torn
            the_end_can_be_asked_for_again
            a_far_side_that_does_not_read_ends_the_line_as_stalled
            a_flush_that_makes_no_progress_ends_the_line_as_stalled
            a_close_that_makes_no_progress_ends_the_line_as_stalled
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! listening_checks {
    ($run:expr) => {
        $crate::checks!($run, listening:
            connecting_to_nothing_is_its_own_error
            listening_twice_is_address_in_use
            accept_dropped_half_way_loses_no_connection
            both_ends_know_each_other
            bulk_goes_both_ways_at_once
            one_direction_ends_while_the_other_goes_on
            what_was_written_before_the_end_is_there_for_who_reads_late
            a_dropped_end_is_the_end_for_the_other
            an_end_between_messages_is_clean
            an_end_inside_a_message_is_not_clean
            a_line_that_stalls_wakes_a_receiver_that_waits
            a_far_side_that_is_gone_is_noticed_and_one_that_ended_its_direction_is_not_gone
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
