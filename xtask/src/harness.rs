//! Parses the output of Rust's test harness, for all systems on which tests run.

use std::fmt;

/// The number of failures of a run that may be forgiven because a second attempt passed.
pub(crate) const MAX_FLAKY: usize = 2;

/// The exit status of a test binary whose tests failed.
pub(crate) const FAILED: i32 = 101;

/// The outcome of a test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TestOutcome {
    Passed,
    Failed,
    Ignored,
}

impl fmt::Display for TestOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "ok",
            Self::Failed => "FAILED",
            Self::Ignored => "ignored",
        })
    }
}

const MODES: [&str; 3] = [" - should panic", " - compile fail", " - compile"];

/// Returns the tests that a harness reports, with their outcomes.
pub(crate) fn results(stdout: &str) -> impl Iterator<Item = (&str, TestOutcome)> {
    stdout.lines().filter_map(|line| {
        let (test, outcome) = line.trim_end().strip_prefix("test ")?.split_once(" ... ")?;
        // The kind of the test follows its name in these lines only.
        let test = MODES.iter().find_map(|mode| test.strip_suffix(mode)).unwrap_or(test);
        // A reason may follow a comma.
        match outcome.split(',').next()? {
            "ok" => Some((test, TestOutcome::Passed)),
            "FAILED" => Some((test, TestOutcome::Failed)),
            "ignored" => Some((test, TestOutcome::Ignored)),
            _ => None,
        }
    })
}

/// Returns the panic message of a failed test, which the harness prints after all tests. Without such a
/// message, returns the other output of the test, which may be empty.
pub(crate) fn panic_of<'a>(stdout: &'a str, test: &str) -> Vec<&'a str> {
    let Some((_, told)) = stdout.split_once(&format!("---- {test} stdout ----")) else {
        return Vec::new();
    };
    let end = ["\n---- ", "\nfailures:"].iter().filter_map(|it| told.find(it)).min();
    let told = told.get(..end.unwrap_or(told.len())).unwrap_or(told);
    // The location is followed by lines with the message.
    let panic = told.split_once("panicked at").and_then(|(_, panic)| panic.split_once('\n'));
    let lines = panic.map_or(told, |(_, panic)| panic).trim_start().lines();
    let is_panic =
        |line: &&str| !line.is_empty() && !BACKTRACE.iter().any(|it| line.starts_with(it));
    lines.map(str::trim_end).take_while(is_panic).collect()
}

/// The beginnings of the lines that follow a panic message.
const BACKTRACE: [&str; 2] = ["stack backtrace:", "note: run with `RUST_BACKTRACE"];

/// Returns the tests that are listed as failed before each closing line. Unlike other output, this list
/// is complete regardless of the output of the tests themselves.
pub(crate) fn failed_tests(stdout: &str) -> Vec<&str> {
    let (mut failed, mut list) = (Vec::new(), Vec::new());
    for line in stdout.lines().map(str::trim_end) {
        match line.strip_prefix("    ") {
            Some(test) => list.push(test),
            None if line.starts_with(RESULT) => failed.append(&mut list),
            // This also matches the heading of a test's own output, which precedes the list.
            None if !line.is_empty() => list.clear(),
            None => {}
        }
    }
    failed
}

/// The start of a harness's closing line.
pub(crate) const RESULT: &str = "test result: ";

/// One failure of a test binary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failed {
    /// The name of the test, or `None` if the binary itself crashed, hung, or ended early.
    pub(crate) test: Option<String>,
    pub(crate) why: String,
}

/// Returns the failures of a test binary, which are none if all tests passed.
///
/// `code` is its exit status, or the reason why there is none.
pub(crate) fn failures(stdout: &str, code: Result<i32, &str>) -> Vec<Failed> {
    let mut failures: Vec<_> = failed_tests(stdout)
        .into_iter()
        .map(|test| Failed {
            test: Some(test.to_owned()),
            why: format!("{:.500}", panic_of(stdout, test).join(" ")),
        })
        .collect();
    let ran = stdout.lines().any(|line| is_opening(line) || line.starts_with("test "));
    let is_whole = stdout.lines().any(|line| line.starts_with("test result: ok."));
    let whole = match code {
        Ok(0) if is_whole || !ran => None,
        Ok(0) => Some("ended without a result".to_owned()),
        Ok(FAILED) if !failures.is_empty() => None,
        Ok(code) => Some(format!("ended with {code}")),
        Err(why) => Some(why.to_owned()),
    };
    failures.extend(whole.map(|why| Failed { test: None, why }));
    failures
}

/// Returns whether the line is a harness's first line, such as `running 3 tests`.
pub(crate) fn is_opening(line: &str) -> bool {
    let words: Vec<_> = line.split_whitespace().collect();
    matches!(words[..], ["running", count, "test" | "tests"] if count.parse::<usize>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_attributed_to_their_tests() {
        let said = "test a ... FAILED\r\ntest a::b ... FAILED\r\n\r\nfailures:\r\n\r\n\
                    ---- a stdout ----\r\nthread 'a' panicked at x.rs:1:\r\ncode: 5\r\n\r\n\
                    ---- a::b stdout ----\r\nthread 'a::b' panicked at y.rs:2:\r\ncode: 1359\r\n\
                    \r\n\r\nfailures:\r\n    a\r\n    a::b\r\n\r\n\
                    test result: FAILED. 0 passed; 2 failed; 0 ignored;\r\n\r\n";
        assert_eq!(panic_of(said, "a"), ["code: 5"]);
        assert_eq!(panic_of(said, "a::b"), ["code: 1359"]);
        assert_eq!(panic_of(said, "b"), [""; 0]);
        // The first test fails without a panic, and the second with one.
        for rest in ["stack backtrace:\n  0: x", "note: run with `RUST_BACKTRACE=1` and so on"] {
            let said = format!("---- a stdout ----\nthread 'a' panicked at x:1:\nno\n{rest}\n\n");
            assert_eq!(panic_of(&said, "a"), ["no"]);
        }
        let said = "\n---- a stdout ----\nError: \"so\"\n\n---- b stdout ----\nthread 'b' panicked at x:\nno\n";
        assert_eq!(panic_of(said, "a"), ["Error: \"so\""]);
        assert_eq!(panic_of(said, "b"), ["no"]);
    }

    #[test]
    fn failed_tests_are_listed_before_the_closing_line() {
        let said = "running 2 tests\n.FF\nfailures:\n\n---- a stdout ----\n    no test\n\nfailures:\n\
                    ---- b::c stdout ----\nx\n\nfailures:\n    a\n    b::c\n\ntest result: FAILED. 1;\n\
                    running 1 test\ntest result: ok. 1\nfailures:\n    d (line 3)\n\ntest result: F";
        assert_eq!(failed_tests(said), ["a", "b::c", "d (line 3)"]);
        assert_eq!(failed_tests("failures:\n    a\n"), [""; 0], "killed before its result");
    }

    #[test]
    fn binary_can_fail_in_addition_to_its_tests() {
        let failed = |test: Option<&str>, why: &str| Failed {
            test: test.map(str::to_owned),
            why: why.into(),
        };
        let list = "failures:\n    a\n\ntest result: FAILED. 0 passed; 1 failed;\n";
        for (said, code, expected) in [
            ("running 0 tests\n\ntest result: ok. 0 passed;", Ok(0), vec![]),
            ("a: test\n\n1 test, 0 benchmarks\n", Ok(0), vec![]),
            (list, Ok(FAILED), vec![failed(Some("a"), "")]),
            (list, Ok(1), vec![failed(Some("a"), ""), failed(None, "ended with 1")]),
            ("running 1 test\n", Ok(0), vec![failed(None, "ended without a result")]),
            ("running 1 test\n", Ok(FAILED), vec![failed(None, "ended with 101")]),
            ("running 1 test\n", Err("ended by 9"), vec![failed(None, "ended by 9")]),
        ] {
            assert_eq!(failures(said, code), expected, "{said}");
        }
    }

    #[test]
    fn harness_output_is_parsed() {
        let said = "\r\nrunning 3 tests\r\ntest a::b - should panic ... ok\r\ntest c ... FAILED\r\n\
                    test d ... ignored\r\ntest e ... ignored, no screen\r\n\
                    test result: ok. 1 passed;\r\n";
        let expected = [
            ("a::b", TestOutcome::Passed),
            ("c", TestOutcome::Failed),
            ("d", TestOutcome::Ignored),
            ("e", TestOutcome::Ignored),
        ];
        assert_eq!(results(said).collect::<Vec<_>>(), expected);
    }
}
