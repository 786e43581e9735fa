//! Gives failed tests a second attempt, alone, and evaluates the outcome.

use std::io::{self, Write};

use super::record::{Event, Record};
use super::watch::Said;
use crate::Failure;
use crate::harness::{Failed, RESULT, failed_tests};

/// The maximum number of failures of a run that get a second attempt. More failures are not a
/// coincidence.
const MAX_SECOND_ATTEMPTS: usize = 10;

/// The tests to run again.
pub(super) enum Again<'a> {
    /// One test, whose output is written to stderr, because stdout is for the results.
    Test(&'a str),
    /// The whole binary, whose output completes the output of the first attempt.
    Whole,
}

/// Gives failures a second attempt, adds each failure to the record, and writes the closing lines that
/// were held back. Returns true if all tests passed in the end.
pub(super) fn judge(
    suite: &str,
    first: &Said,
    record: &mut Record,
    out: &mut impl Write,
    mut run: impl FnMut(Again<'_>) -> Result<Said, Failure>,
) -> Result<bool, Failure> {
    let failures = first.failures();
    let (is_well, closing) = if failures.is_empty() {
        (true, first.held.clone())
    } else if failures.iter().any(|failed| failed.test.is_none()) {
        // The test that made the binary fail is unknown.
        once_more(suite, first, failures, record, || run(Again::Whole))?
    } else {
        let is_well = alone(suite, first, failures, record, |test| run(Again::Test(test)))?;
        (is_well, if is_well { forgiven(&first.held) } else { first.held.clone() })
    };
    let _ = out.write_all(&closing);
    Ok(is_well)
}

/// Runs each failed test once more, alone.
fn alone(
    suite: &str,
    first: &Said,
    failures: Vec<Failed>,
    record: &mut Record,
    mut run: impl FnMut(&str) -> Result<Said, Failure>,
) -> Result<bool, Failure> {
    announce(suite, first, &failures);
    let mut is_well = true;
    for failed in failures {
        let test = failed.test.clone().unwrap_or_default();
        let has_passed = match record.len() < MAX_SECOND_ATTEMPTS {
            true => {
                let second = run(&test)?;
                second.failures().is_empty() && second.passed(&test)
            }
            false => false,
        };
        record.add(event(suite, failed, has_passed))?;
        is_well &= has_passed;
    }
    Ok(is_well)
}

/// Runs all tests once more. Also returns the closing lines of the second attempt.
pub(super) fn once_more(
    suite: &str,
    first: &Said,
    failures: Vec<Failed>,
    record: &mut Record,
    run: impl FnOnce() -> Result<Said, Failure>,
) -> Result<(bool, Vec<u8>), Failure> {
    announce(suite, first, &failures);
    if record.len() >= MAX_SECOND_ATTEMPTS {
        for failed in failures {
            record.add(event(suite, failed, false))?;
        }
        return Ok((false, first.held.clone()));
    }
    let second = run()?;
    let still = second.failures();
    let is_whole = still.iter().all(|failed| failed.test.is_some());
    for failed in failures.iter().cloned() {
        let has_passed = match &failed.test {
            Some(_) => is_whole && still.iter().all(|it| it.test != failed.test),
            None => still.is_empty(),
        };
        record.add(event(suite, failed, has_passed))?;
    }
    let is_well = still.is_empty();
    for failed in still {
        if failures.iter().all(|known| known.test != failed.test) {
            record.add(event(suite, failed, false))?;
        }
    }
    Ok((is_well, second.held))
}

/// Reports the first failure, which is of interest even if the second attempt passes.
fn announce(suite: &str, first: &Said, failures: &[Failed]) {
    let _ = io::stderr().write_all(&first.held);
    for failed in failures {
        let Event { name, why, .. } = event(suite, failed.clone(), false);
        eprintln!("xtask: {name} failed ({why}); trying again");
    }
}

fn event(suite: &str, Failed { test, why }: Failed, is_flaky: bool) -> Event {
    let name = test.map_or_else(|| suite.into(), |test| format!("{suite}::{test}"));
    Event { name, why, is_flaky }
}

/// Returns the closing lines of a binary whose failed tests passed in the end.
fn forgiven(held: &[u8]) -> Vec<u8> {
    let held = String::from_utf8_lossy(held);
    let passed = failed_tests(&held).into_iter().map(|test| format!("test {test} ... ok\n"));
    let closing = held.lines().filter_map(|line| {
        let (passed, rest) =
            line.strip_prefix(RESULT)?.strip_prefix("FAILED. ")?.split_once(' ')?;
        let (failed, rest) = rest.strip_prefix("passed; ")?.split_once(' ')?;
        let passed = passed.parse::<usize>().ok()?.checked_add(failed.parse().ok()?)?;
        let rest = rest.strip_prefix("failed; ")?;
        Some(format!("\n{RESULT}ok. {passed} passed; 0 failed; {rest}\n\n"))
    });
    passed.chain(closing).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::FAILED;

    /// Output that was recorded from a test binary.
    const PASSED: &str = "running 2 tests\ntest a ... ok\ntest b ... ok\n\n\
        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n";
    const HELD: &str = "test b ... FAILED\n\nfailures:\n\n---- b stdout ----\n\n\
        thread 'b' (31) panicked at x.rs:1:1:\nno answer\n\n\nfailures:\n    b\n\n\
        test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
    const ALONE: &str = "running 1 test\ntest b ... ok\n\n\
        test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.00s\n\n";
    const CRASHED: &str = "running 2 tests\ntest a ... ok\n";

    fn said(text: &str, held: &str, code: Option<i32>) -> Said {
        Said {
            text: format!("{text}{held}"),
            held: held.into(),
            code,
            why: "ended by SIGSEGV".into(),
        }
    }

    /// Returns whether all tests passed in the end, the recorded events, and the output on stdout.
    fn judged(first: Said, again: Vec<Said>) -> (bool, Vec<(String, String, bool)>, String) {
        let (mut record, mut out, mut again) = (Record::default(), Vec::new(), again.into_iter());
        let well = judge("cli::serve", &first, &mut record, &mut out, |what| {
            let is_whole = first.code != Some(FAILED);
            assert_eq!(matches!(what, Again::Whole), is_whole, "the test alone, if it is known");
            Ok(again.next().unwrap())
        });
        assert!(again.next().is_none(), "once for each failure");
        let events =
            record.events().iter().map(|it| (it.name.clone(), it.why.clone(), it.is_flaky));
        (well.ok().unwrap(), events.collect(), String::from_utf8(out).unwrap())
    }

    #[test]
    fn output_of_passed_tests_is_unchanged() {
        assert_eq!(judged(said(PASSED, "", Some(0)), vec![]), (true, vec![], String::new()));
    }

    #[test]
    fn failed_test_that_passes_alone_is_flaky_and_counted_as_passed() {
        let (well, events, out) =
            judged(said("running 2 tests\n", HELD, Some(FAILED)), vec![said(ALONE, "", Some(0))]);
        assert!(well);
        assert_eq!(events, [("cli::serve::b".into(), "no answer".into(), true)]);
        assert_eq!(
            out,
            "test b ... ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; \
             0 filtered out; finished in 0.00s\n\n"
        );
    }

    #[test]
    fn failure_without_a_passing_second_attempt_is_final() {
        let first = || said("running 2 tests\n", HELD, Some(FAILED));
        // The test fails again, crashes, does not exist, or exits before its result.
        for second in [
            first(),
            said("running 1 test\n", "", None),
            said("running 0 tests\ntest result: ok. 0 passed;\n", "", Some(0)),
            said("running 1 test\n", "", Some(0)),
        ] {
            let (well, events, out) = judged(first(), vec![second]);
            assert!(!well);
            assert_eq!(events, [("cli::serve::b".into(), "no answer".into(), false)]);
            assert_eq!(out, HELD, "the closing line is the harness's own");
        }
    }

    #[test]
    fn crashed_binary_runs_again_as_a_whole() {
        let crashed = || said(CRASHED, "", None);
        let (well, events, out) = judged(crashed(), vec![said(PASSED, "", Some(0))]);
        assert!(well && out.is_empty());
        assert_eq!(events, [("cli::serve".into(), "ended by SIGSEGV".into(), true)]);

        let (well, events, _) = judged(crashed(), vec![crashed()]);
        assert!(!well);
        assert_eq!(events, [("cli::serve".into(), "ended by SIGSEGV".into(), false)]);

        // The second attempt can name the test.
        let (well, events, out) =
            judged(crashed(), vec![said("running 2 tests\n", HELD, Some(FAILED))]);
        assert!(!well && out == HELD);
        assert_eq!(events[1], ("cli::serve::b".into(), "no answer".into(), false));
    }

    #[test]
    fn binary_that_ends_without_its_closing_line_has_failed() {
        let (well, events, _) =
            judged(said(CRASHED, "", Some(0)), vec![said(CRASHED, "", Some(0))]);
        assert!(!well);
        assert_eq!(events, [("cli::serve".into(), "ended without a result".into(), false)]);
    }

    #[test]
    fn many_failures_get_no_second_attempt() {
        let mut record = Record::default();
        for _ in 0..MAX_SECOND_ATTEMPTS {
            record
                .add(Event { name: "x".into(), why: String::new(), is_flaky: true })
                .ok()
                .unwrap();
        }
        let first = said("running 2 tests\n", HELD, Some(FAILED));
        let well = judge("s", &first, &mut record, &mut Vec::new(), |_| {
            panic!("unexpected second attempt")
        });
        assert!(!well.ok().unwrap());
    }
}
