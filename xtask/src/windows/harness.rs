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

/// The lines of what a failed test has panicked with, as the harness tells it behind all of them, if it did
/// so once. What was printed behind it is among them.
pub(super) fn panic_of<'a>(stdout: &'a str, test: &str) -> Option<Vec<&'a str>> {
    let (_, from_here) = stdout.split_once(&format!("---- {test} stdout ----"))?;
    let end = ["\n---- ", "\nfailures:"].iter().filter_map(|it| from_here.find(it)).min()?;
    let (_, panic) = from_here.get(..end)?.split_once("panicked at")?;
    if panic.contains("panicked at") {
        return None;
    }
    // Where, and in the next lines with what.
    Some(panic.lines().skip(1).map(str::trim_end).take_while(|line| !line.is_empty()).collect())
}

/// How many tests have failed, as a harness sums it up last of all.
pub(super) fn failed_of(stdout: &str) -> Option<usize> {
    let sum = stdout.trim_end().lines().last()?.strip_prefix("test result: FAILED. ")?;
    sum.split("; ").find_map(|part| part.strip_suffix(" failed"))?.parse().ok()
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
        assert_eq!(panic_of(said, "a"), Some(vec!["code: 5"]));
        assert_eq!(panic_of(said, "a::b"), Some(vec!["code: 1359"]));
        assert_eq!(panic_of(said, "b"), None);
        assert_eq!(failed_of(said), Some(2));
        assert_eq!(failed_of(said.split("test result").next().unwrap()), None);
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
