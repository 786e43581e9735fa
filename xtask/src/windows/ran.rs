//! Collects the outcome of every test and judges the run.

use std::collections::BTreeMap;

use super::Suite;
use super::list::{MUST_RUN, UNPROVEN, Unproven};
use super::wine::Said;
use crate::harness::{self, MAX_FLAKY, TestOutcome, results};
use crate::{Failure, failed};

/// The reason that is reported if there is no exit status.
const TOO_LONG: &str = "was killed or took too long";

/// The outcome of every test.
#[derive(Default)]
pub(super) struct Ran {
    /// The outcomes by the full names of the tests.
    tests: BTreeMap<String, TestOutcome>,
    problems: Vec<String>,
    /// The failures of first attempts.
    again: Vec<String>,
}

impl Ran {
    pub(super) fn suite(
        &mut self,
        suite: &Suite,
        mut run: impl FnMut(&[&str]) -> Result<Said, Failure>,
    ) -> Result<(), Failure> {
        // Only two threads are used, because all processes share one Wine server and tests depend on
        // progress there.
        let mut args = vec!["--test-threads=2", "--format=pretty"];
        for unproven in UNPROVEN.iter().filter(|it| it.suite == suite.name) {
            args.extend(["--skip", unproven.test]);
        }
        let mut said = run(&args)?;
        let mut failed = failures(suite, &said);
        // Wine occasionally fails where Windows does not. For example, starting a program may fail with
        // "Internal error" (1359). A suite that hung does not run again, because it has already used the
        // time of two runs.
        if !failed.is_empty() && said.code.is_some() && self.again.len() < MAX_FLAKY {
            eprintln!("{}\n{}", said.stdout, said.stderr);
            self.again.push(failed.join("; "));
            eprintln!("windows: {}: trying again, since the cause may be Wine", suite.name);
            said = run(&args)?;
            failed = failures(suite, &said);
        }
        let mut passed = 0;
        for (test, outcome) in results(&said.stdout) {
            let name = format!("{}::{test}", suite.name);
            eprintln!("windows: {name} {outcome}");
            passed += usize::from(outcome == TestOutcome::Passed);
            self.tests.insert(name, outcome);
        }
        if !failed.is_empty() {
            eprintln!("{}\n{}", said.stdout, said.stderr);
            self.problems.extend(failed);
        }
        eprintln!("windows: {}: {passed} passed in {:.1?}", suite.name, said.took);
        Ok(())
    }

    /// Runs a test that must fail under Wine because of Wine, and not because of tieline.
    pub(super) fn unproven(
        &mut self,
        unproven: &Unproven,
        mut run: impl FnMut(&[&str]) -> Result<Said, Failure>,
    ) -> Result<(), Failure> {
        let name = format!("{}::{}", unproven.suite, unproven.test);
        let mut ask = || -> Result<_, Failure> {
            let said = run(&["--exact", "--include-ignored", unproven.test])?;
            let Err(why) = deviates(unproven, &said) else { return Ok((None, false)) };
            eprintln!("{}\n{}", said.stdout, said.stderr);
            Ok((Some(format!("{name} {why}")), said.code.is_none()))
        };
        let (mut problem, hung) = ask()?;
        if !hung
            && self.again.len() < MAX_FLAKY
            && let Some(why) = problem.take()
        {
            self.again.push(why);
            eprintln!("windows: {name}: trying again, since the cause may be Wine");
            (problem, _) = ask()?;
        }
        if problem.is_none() {
            eprintln!("windows: {name}: expected deviation ({})", unproven.why);
        }
        self.problems.extend(problem);
        Ok(())
    }

    /// Records that an expected suite is missing.
    pub(super) fn lacks(&mut self, suite: &str) {
        self.problems.push(format!("{suite} is missing"));
    }

    pub(super) fn judge(mut self) -> Result<(), Failure> {
        for must in MUST_RUN {
            if matches!(self.tests.get(*must), None | Some(TestOutcome::Ignored)) {
                self.problems.push(format!("{must} did not run"));
            }
        }
        let count = |wanted| self.tests.values().filter(|outcome| **outcome == wanted).count();
        let (passed, ignored) = (count(TestOutcome::Passed), count(TestOutcome::Ignored));
        let unproven = UNPROVEN.len();
        eprintln!("windows: {passed} passed under Wine, {ignored} ignored, {unproven} unproven");
        for failed in &self.again {
            eprintln!("windows: failed in the first attempt: {failed}");
        }
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(failed(format!("windows: {}", self.problems.join("; ")))),
        }
    }
}

/// Checks that a test failed in the way that Wine makes it fail. Otherwise, returns a description of its
/// outcome.
fn deviates(unproven: &Unproven, said: &Said) -> Result<(), String> {
    let (says, why) = (unproven.says, unproven.why);
    match results(&said.stdout).next() {
        _ if said.code.is_none() => Err(TOO_LONG.into()),
        None => Err("does not exist".into()),
        Some((_, TestOutcome::Failed)) if said.stdout.contains(says) => Ok(()),
        Some((_, TestOutcome::Failed)) => {
            Err(format!("failed, but not with {says:?} as expected under Wine"))
        }
        Some(_) => Err(format!("passed, but was expected to fail under Wine: {why}")),
    }
}

/// Returns the failures of a suite, which are none if all tests passed.
fn failures(suite: &Suite, said: &Said) -> Vec<String> {
    let name = &suite.name;
    (harness::failures(&said.stdout, said.code.ok_or(TOO_LONG)).into_iter())
        .map(|failed| match failed.test {
            Some(test) => format!("{name}::{test} failed: {}", failed.why),
            None => format!("{name} {}", failed.why),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::harness::FAILED;

    /// Returns the problems and the failures of first attempts, for suites whose runs print these
    /// outputs in order.
    fn judged(suites: &[&[(&str, Option<i32>)]]) -> (Vec<String>, Vec<String>) {
        let suite = Suite { name: "s".into(), directory: "".into(), program: "".into() };
        let mut ran = Ran::default();
        for runs in suites {
            let mut runs = runs.iter();
            ran.suite(&suite, |_| {
                let (stdout, code) = *runs.next().unwrap();
                let (stdout, stderr, took) = (stdout.to_owned(), String::new(), Duration::ZERO);
                Ok(Said { stdout, stderr, code, took })
            })
            .ok()
            .unwrap();
            assert_eq!(runs.next(), None, "unexpected number of runs");
        }
        (ran.problems, ran.again)
    }

    #[test]
    fn failed_suite_is_tried_again_and_reported() {
        let ok = ("test a ... ok\n\ntest result: ok. 1 passed;\n", Some(0));
        let bad = (
            "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nthread 'a' panicked at x.rs:1:\nso\n\n\n\
             failures:\n    a\n\ntest result: FAILED. 0 passed; 1 failed;\n",
            Some(FAILED),
        );
        let so = || vec!["s::a failed: so".to_owned()];
        assert_eq!(judged(&[&[ok]]), (vec![], vec![]));
        assert_eq!(judged(&[&[bad, ok]]), (vec![], so()));
        assert_eq!(judged(&[&[bad, bad]]), (so(), so()));
        // Only a few failures are tried again, in all suites together.
        let (problems, again) = judged(&[&[bad, ok], &[bad, ok], &[bad], &[ok]]);
        assert_eq!((problems, again.len()), (so(), MAX_FLAKY));
        // The suite crashes, or fails without naming a test.
        for (code, said) in [(5, "s ended with 5"), (FAILED, "s ended with 101")] {
            assert_eq!(judged(&[&[("", Some(code)), ok]]), (vec![], vec![said.to_owned()]));
        }
        // A test ends the process.
        let left = ("test a ... ok\n", Some(0));
        assert_eq!(judged(&[&[left, left]]).0, ["s ended without a result"]);
        let hung = ("test a ... ok\n", None);
        assert_eq!(judged(&[&[hung]]), (vec!["s was killed or took too long".to_owned()], vec![]));
        // A suite that fails is a problem even if its tests passed.
        let (problems, _) = judged(&[&[bad, ("test a ... ok\n", Some(5))]]);
        assert_eq!(problems, ["s ended with 5"]);
    }

    /// The output of a test that hangs, so that there is no exit status.
    const HUNG: &str = "test a ... ";

    #[test]
    fn unproven_test_must_fail_as_wine_makes_it_fail() {
        let unproven = Unproven { suite: "s", test: "a", why: "reason", says: "no console" };
        let judged = |runs: &[&str]| {
            let (mut ran, mut runs) = (Ran::default(), runs.iter());
            ran.unproven(&unproven, |_| {
                let (stdout, stderr) = (runs.next().unwrap().to_string(), String::new());
                let code = if stdout == HUNG { None } else { Some(FAILED) };
                Ok(Said { stdout, stderr, code, took: Duration::ZERO })
            })
            .ok()
            .unwrap();
            assert_eq!(runs.next(), None, "unexpected number of runs");
            (ran.problems, ran.again.len())
        };
        assert_eq!(judged(&[HUNG]), (vec![format!("s::a {TOO_LONG}")], 0));
        let (well, other) = ("test a ... FAILED\nno console can be had", "test a ... FAILED\nso");
        assert_eq!(judged(&[well]), (vec![], 0));
        assert_eq!(judged(&[other, well]), (vec![], 1));
        for (bad, why) in [
            (other, "failed, but not with \"no console\" as expected under Wine"),
            ("test a ... ok", "passed, but was expected to fail under Wine: reason"),
            ("", "does not exist"),
        ] {
            assert_eq!(judged(&[bad, bad]), (vec![format!("s::a {why}")], 1));
        }
    }
}
