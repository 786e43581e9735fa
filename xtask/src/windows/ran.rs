//! What became of every test, and whether that is well.

use std::collections::BTreeMap;

use super::Suite;
use super::list::{MUST_RUN, UNPROVEN, Unproven};
use super::wine::Said;
use crate::harness::{self, MAX_FLAKY, Outcome, results};
use crate::{Failure, failed};

/// What is said of who has no status.
const TOO_LONG: &str = "was ended, or took too long";

/// What became of every test.
#[derive(Default)]
pub(super) struct Ran {
    /// By its full name.
    tests: BTreeMap<String, Outcome>,
    problems: Vec<String>,
    /// What has failed the first time.
    again: Vec<String>,
}

impl Ran {
    pub(super) fn suite(
        &mut self,
        suite: &Suite,
        mut run: impl FnMut(&[&str]) -> Result<Said, Failure>,
    ) -> Result<(), Failure> {
        // Two at once: everything goes through one server of Wine's, and time has to pass there as well.
        let mut args = vec!["--test-threads=2", "--format=pretty"];
        for unproven in UNPROVEN.iter().filter(|it| it.suite == suite.name) {
            args.extend(["--skip", unproven.test]);
        }
        let mut said = run(&args)?;
        let mut failed = failures(suite, &said);
        // Wine fails now and then where Windows does not: starting a program may end with "Internal error"
        // (1359). A suite that hung is not run again: it has had the time of two.
        if !failed.is_empty() && said.code.is_some() && self.again.len() < MAX_FLAKY {
            eprintln!("{}\n{}", said.stdout, said.stderr);
            self.again.push(failed.join("; "));
            eprintln!("windows: {}: again, as it may have been Wine", suite.name);
            said = run(&args)?;
            failed = failures(suite, &said);
        }
        let mut passed = 0;
        for (test, outcome) in results(&said.stdout) {
            let name = format!("{}::{test}", suite.name);
            eprintln!("windows: {name} {outcome}");
            passed += usize::from(outcome == Outcome::Passed);
            self.tests.insert(name, outcome);
        }
        if !failed.is_empty() {
            eprintln!("{}\n{}", said.stdout, said.stderr);
            self.problems.extend(failed);
        }
        eprintln!("windows: {}: {passed} passed in {:.1?}", suite.name, said.took);
        Ok(())
    }

    /// One that must fail under Wine: there it shows what Wine is, and not what tieline is.
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
            eprintln!("windows: {name}: again, as it may have been Wine");
            (problem, _) = ask()?;
        }
        if problem.is_none() {
            eprintln!("windows: {name}: expected deviation ({})", unproven.why);
        }
        self.problems.extend(problem);
        Ok(())
    }

    /// A suite is not there that should be.
    pub(super) fn lacks(&mut self, suite: &str) {
        self.problems.push(format!("there is no {suite}"));
    }

    pub(super) fn judge(mut self) -> Result<(), Failure> {
        for must in MUST_RUN {
            if matches!(self.tests.get(*must), None | Some(Outcome::Ignored)) {
                self.problems.push(format!("{must} did not run"));
            }
        }
        let count = |wanted| self.tests.values().filter(|outcome| **outcome == wanted).count();
        let (passed, ignored) = (count(Outcome::Passed), count(Outcome::Ignored));
        let unproven = UNPROVEN.len();
        eprintln!(
            "windows: {passed} passed under Wine, {ignored} are ignored, {unproven} are unproven there"
        );
        for failed in &self.again {
            eprintln!("windows: the first time, {failed}");
        }
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(failed(format!("windows: {}", self.problems.join("; ")))),
        }
    }
}

/// Whether a test has failed as Wine makes it fail; if not, what else it did.
fn deviates(unproven: &Unproven, said: &Said) -> Result<(), String> {
    let (says, why) = (unproven.says, unproven.why);
    match results(&said.stdout).next() {
        _ if said.code.is_none() => Err(TOO_LONG.into()),
        None => Err("is not there".into()),
        Some((_, Outcome::Failed)) if said.stdout.contains(says) => Ok(()),
        Some((_, Outcome::Failed)) => {
            Err(format!("failed, and not with {says:?}, as it does because of Wine"))
        }
        Some(_) => Err(format!("did not fail, although Wine is believed not to pass it: {why}")),
    }
}

/// Returns what a suite failed with; nothing if all is well.
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

    /// What becomes of suites whose runs say this, one after the other: the problems, and what has failed
    /// the first time.
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
            assert_eq!(runs.next(), None, "it has run as often as it should");
        }
        (ran.problems, ran.again)
    }

    #[test]
    fn a_suite_that_fails_under_wine_has_one_more_try_and_it_is_said() {
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
        // A few only, in all suites together.
        let (problems, again) = judged(&[&[bad, ok], &[bad, ok], &[bad], &[ok]]);
        assert_eq!((problems, again.len()), (so(), MAX_FLAKY));
        // It has crashed; it has failed, and nobody can read whose test that was; it has taken too long.
        for (code, said) in [(5, "s ended with 5"), (FAILED, "s ended with 101")] {
            assert_eq!(judged(&[&[("", Some(code)), ok]]), (vec![], vec![said.to_owned()]));
        }
        // One of its tests has ended the process.
        let left = ("test a ... ok\n", Some(0));
        assert_eq!(judged(&[&[left, left]]).0, ["s ended without a result"]);
        let hung = ("test a ... ok\n", None);
        assert_eq!(judged(&[&[hung]]), (vec!["s was ended, or took too long".to_owned()], vec![]));
        // A test that has passed is none of a suite that has not.
        let (problems, _) = judged(&[&[bad, ("test a ... ok\n", Some(5))]]);
        assert_eq!(problems, ["s ended with 5"]);
    }

    /// It takes too long.
    const HUNG: &str = "test a ... ";

    #[test]
    fn who_must_fail_under_wine_fails_with_its_words() {
        let unproven = Unproven { suite: "s", test: "a", why: "Wine is so", says: "no console" };
        let judged = |runs: &[&str]| {
            let (mut ran, mut runs) = (Ran::default(), runs.iter());
            ran.unproven(&unproven, |_| {
                let (stdout, stderr) = (runs.next().unwrap().to_string(), String::new());
                let code = if stdout == HUNG { None } else { Some(FAILED) };
                Ok(Said { stdout, stderr, code, took: Duration::ZERO })
            })
            .ok()
            .unwrap();
            assert_eq!(runs.next(), None, "it has run as often as it should");
            (ran.problems, ran.again.len())
        };
        assert_eq!(judged(&[HUNG]), (vec![format!("s::a {TOO_LONG}")], 0));
        let (well, other) = ("test a ... FAILED\nno console can be had", "test a ... FAILED\nso");
        assert_eq!(judged(&[well]), (vec![], 0));
        assert_eq!(judged(&[other, well]), (vec![], 1));
        for (bad, why) in [
            (other, "failed, and not with \"no console\", as it does because of Wine"),
            ("test a ... ok", "did not fail, although Wine is believed not to pass it: Wine is so"),
            ("", "is not there"),
        ] {
            assert_eq!(judged(&[bad, bad]), (vec![format!("s::a {why}")], 1));
        }
    }
}
