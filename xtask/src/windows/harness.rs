//! What Rust's test harness says.

use std::fmt;

/// What it ends with where tests have failed.
pub(super) const FAILED: i32 = 101;

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    Ignored,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "ok",
            Self::Failed => "FAILED",
            Self::Ignored => "ignored",
        })
    }
}

/// The tests that a harness names, and what became of them.
pub(super) fn results(stdout: &str) -> impl Iterator<Item = (&str, Outcome)> {
    stdout.lines().filter_map(|line| {
        let (test, outcome) = line.trim_end().strip_prefix("test ")?.split_once(" ... ")?;
        // A reason may stand behind a comma.
        match outcome.split(',').next()? {
            "ok" => Some((test, Outcome::Passed)),
            "FAILED" => Some((test, Outcome::Failed)),
            "ignored" => Some((test, Outcome::Ignored)),
            _ => None,
        }
    })
}

/// What a failed test has panicked with, as the harness tells it behind all of them, or what else it said;
/// no lines where there is nothing of it.
pub(super) fn panic_of<'a>(stdout: &'a str, test: &str) -> Vec<&'a str> {
    let Some((_, told)) = stdout.split_once(&format!("---- {test} stdout ----")) else {
        return Vec::new();
    };
    let end = ["\n---- ", "\nfailures:"].iter().filter_map(|it| told.find(it)).min();
    let told = told.get(..end.unwrap_or(told.len())).unwrap_or(told);
    // Where, and in the next lines with what.
    let panic = told.split_once("panicked at").and_then(|(_, panic)| panic.split_once('\n'));
    let lines = panic.map_or(told, |(_, panic)| panic).trim_start().lines();
    lines.map(str::trim_end).take_while(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_told_from_the_others() {
        let said = "test a ... FAILED\r\ntest a::b ... FAILED\r\n\r\nfailures:\r\n\r\n\
                    ---- a stdout ----\r\nthread 'a' panicked at x.rs:1:\r\ncode: 5\r\n\r\n\
                    ---- a::b stdout ----\r\nthread 'a::b' panicked at y.rs:2:\r\ncode: 1359\r\n\
                    \r\n\r\nfailures:\r\n    a\r\n    a::b\r\n\r\n\
                    test result: FAILED. 0 passed; 2 failed; 0 ignored;\r\n\r\n";
        assert_eq!(panic_of(said, "a"), ["code: 5"]);
        assert_eq!(panic_of(said, "a::b"), ["code: 1359"]);
        assert_eq!(panic_of(said, "b"), [""; 0]);
        // It has failed without a panic, and the next one with one.
        let said = "\n---- a stdout ----\nError: \"so\"\n\n---- b stdout ----\nthread 'b' panicked at x:\nno\n";
        assert_eq!(panic_of(said, "a"), ["Error: \"so\""]);
        assert_eq!(panic_of(said, "b"), ["no"]);
    }

    #[test]
    fn a_harness_is_understood() {
        let said = "\r\nrunning 3 tests\r\ntest a::b ... ok\r\ntest c ... FAILED\r\n\
                    test d ... ignored\r\ntest e ... ignored, no screen\r\n\
                    test result: ok. 1 passed;\r\n";
        let expected = [
            ("a::b", Outcome::Passed),
            ("c", Outcome::Failed),
            ("d", Outcome::Ignored),
            ("e", Outcome::Ignored),
        ];
        assert_eq!(results(said).collect::<Vec<_>>(), expected);
    }
}
