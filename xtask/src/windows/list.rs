//! The tests that must run under Wine, and the tests that Wine cannot judge.

/// A test whose result under Wine is no evidence about tieline.
pub(super) struct Unproven {
    /// The suite, which is identified by the crate's folder and the name of a test binary.
    pub(super) suite: &'static str,
    pub(super) test: &'static str,
    pub(super) why: &'static str,
    /// A text that the output of its failure under Wine contains. Any other failure is reported.
    pub(super) says: &'static str,
}

impl Unproven {
    /// Returns the command to run on Windows.
    pub(super) fn command(&self) -> String {
        let Self { suite, test, .. } = self;
        let (package, target) = suite.split_once("::").unwrap_or((suite, "--lib"));
        format!(
            "cargo test -p tieline-{package} --test {target} -- --exact --include-ignored {test}"
        )
    }
}

const FIRST: &str = "Wine 8 accepts a second listener as the first instance of a pipe";
const TWO_LISTEN: &str = "two listeners at once";
const DACL: &str = "Wine 8 admits clients that a pipe's security descriptor excludes";
const CONSOLE: &str = "Wine has no console without a display, so CTRL_BREAK cannot be sent";

const EMPTY: &str = "Wine 8 ignores an empty write, while on Windows it completes a read";

pub(super) const UNPROVEN: &[Unproven] = &[
    Unproven {
        suite: "transport::conformance",
        test: "on_windows::pipe::listening_twice_is_address_in_use",
        why: FIRST,
        says: TWO_LISTEN,
    },
    Unproven {
        suite: "transport::conformance",
        test: "on_windows::custom_over_pipe::listening_twice_is_address_in_use",
        why: FIRST,
        says: TWO_LISTEN,
    },
    Unproven {
        suite: "transport::windows",
        test: "pipes::descriptor_that_excludes_its_own_server_is_refused_at_once",
        why: DACL,
        says: "the descriptor excludes no one",
    },
    Unproven {
        suite: "transport::windows",
        test: "pipes::empty_write_is_not_the_end",
        why: EMPTY,
        says: "the empty write did not complete the read",
    },
    Unproven {
        suite: "cli::windows",
        test: "ctrl_break_ends_a_server_and_its_processes",
        why: CONSOLE,
        says: "no console is available",
    },
];

/// The tests that must run under Wine. Each of them covers behavior that no other test covers. If a test
/// is renamed, it must be renamed here as well.
pub(super) const MUST_RUN: &[&str] = &[
    "cli::windows::a_pipe_can_be_served_again_after_its_server_was_killed",
    "cli::windows::bridge_and_connect_end_when_all_requests_are_answered",
    "cli::windows::a_blocked_stdin_does_not_delay_the_exit",
    "cli::windows::many_clients_at_once_are_all_served",
    "cli::windows::the_default_endpoint_is_a_pipe_named_after_the_program",
    "cli::windows::web_clients_and_mcp_clients_use_a_pipe",
    "http::sessions::a_session_survives_a_thousand_web_sockets_cut_in_mid_frame",
    "http::sse_client::a_session_survives_a_thousand_streams_cut_in_mid_event",
    "http::sse_resume::a_thousand_cuts_in_mid_event_lose_and_duplicate_nothing",
    "transport::conformance::on_windows::pipe::bytes_are_echoed_unchanged",
    "transport::conformance::on_windows::pipe::both_ends_identify_each_other",
    "transport::conformance::on_windows::process::bytes_are_echoed_unchanged",
    "transport::conformance::on_windows::stdio::bytes_are_echoed_unchanged",
    "transport::windows::children::child_has_the_given_environment_and_directory",
    "transport::windows::children::program_is_found_without_its_extension",
    "transport::windows::children::arguments_of_a_batch_file_arrive_or_are_refused",
    "transport::windows::children::account_counts_how_each_child_ended_and_verifies_that_no_process_is_left",
    "transport::windows::children::child_inherits_only_its_own_three_handles",
    "transport::windows::children::two_hundred_rounds_leave_no_process",
    "transport::windows::children::descendants_of_a_killed_program_end_with_it",
    "transport::windows::pipes::pipe_of_another_owner_is_refused",
    "transport::windows::pipes::a_thousand_rounds_of_fifty_clients_lose_nothing",
    "transport::windows::pipes::there_is_always_an_instance_to_connect_to",
    "transport::windows::pipes::connect_waits_for_a_free_instance_within_its_timeout",
    "transport::windows::ratios::round_trips_and_streams_work_like_those_of_raw_pipes",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_either_required_or_unproven_and_listed_once() {
        for unproven in UNPROVEN {
            let name = format!("{}::{}", unproven.suite, unproven.test);
            assert!(!MUST_RUN.contains(&name.as_str()), "{name}");
            assert!(unproven.command().contains(unproven.test));
        }
        let mut names: Vec<_> = MUST_RUN.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MUST_RUN.len());
    }
}
