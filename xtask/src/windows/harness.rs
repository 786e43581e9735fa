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

/// The lines of what a failed test has panicked with, as the harness tells it behind all of them; none where
/// it does not.
pub(super) fn panic_of<'a>(stdout: &'a str, test: &str) -> Vec<&'a str> {
    let told = stdout.split_once(&format!("---- {test} stdout ----"));
    let panic = told.and_then(|(_, told)| told.split_once("panicked at"));
    // Where, and in the next lines with what.
    let lines = panic.map_or("", |(_, panic)| panic).lines().skip(1);
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
