//! `xtask test-binary`, which cargo starts in place of each test binary. It runs the binary and gives
//! failed tests a second attempt.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

use super::attempts::{Again, judge};
use super::record::{Record, VARIABLE};
use super::watch::{Hangs, Said, hangs, watch};
use crate::harness::FAILED;
use crate::{Failure, failed, usage};

/// The name of the hidden command.
pub(crate) const COMMAND: &str = "test-binary";

/// Runs a test binary with its arguments. The exit status is that of the binary or of the second
/// attempt.
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let Some((program, args)) = args.split_first() else {
        return Err(usage(format!("{COMMAND} is for cargo only")));
    };
    let record = env::var_os(VARIABLE).ok_or_else(|| failed(format!("{VARIABLE} is not set")))?;
    let mut record = Record::open(Path::new(&record))?;
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let suite = Suite { program, args, hangs: &hangs };
    match suite.run(&name(Path::new(program), &package), &mut record, &mut io::stdout().lock())? {
        true => Ok(()),
        // The exit status is that of the harness, so that cargo reports only the name of the target.
        false => exit(FAILED),
    }
}

struct Suite<'a> {
    program: &'a str,
    args: &'a [String],
    hangs: Hangs<'a>,
}

impl Suite<'_> {
    fn run(&self, name: &str, record: &mut Record, out: &mut impl Write) -> Result<bool, Failure> {
        let first = self.attempt(self.args, out)?;
        let mut shown = Vec::new();
        let is_well = judge(name, &first, record, &mut shown, |again| match again {
            Again::Whole => self.attempt(self.args, out),
            // `--include-ignored` is necessary, because the test ran and may have been selected with
            // `--ignored`.
            Again::Test(test) => {
                let args = ["--exact", "--include-ignored", test].map(str::to_owned);
                self.attempt(&args, &mut io::stderr().lock())
            }
        });
        let _ = out.write_all(&shown);
        is_well
    }

    fn attempt(&self, args: &[String], out: &mut impl Write) -> Result<Said, Failure> {
        let mut command = Command::new(self.program);
        command.args(args).env_remove(VARIABLE);
        // An error is ignored, because the exit status matters even if stdout is no longer read.
        let said = watch(&mut command, self.hangs, |bytes| _ = out.write_all(bytes));
        let _ = out.flush();
        said
    }
}

/// Returns the package's folder and the test target, in the format of `cargo xtask windows`.
fn name(program: &Path, package: &Path) -> String {
    let stem = program.file_stem().unwrap_or_default().to_string_lossy();
    let target = stem.rsplit_once('-').map_or(&*stem, |(target, _hash)| target);
    let folder = package.file_name().unwrap_or_default().to_string_lossy();
    let tests = package.join("tests");
    let is_test = tests.join(target).with_extension("rs").exists()
        || tests.join(target).join("main.rs").exists();
    let is_example = program.parent().is_some_and(|folder| folder.ends_with("examples"));
    match (is_example, is_test) {
        (true, _) => format!("{folder}::examples::{target}"),
        (false, true) => format!("{folder}::{target}"),
        (false, false) => folder.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::super::record::Event;
    use super::*;

    #[test]
    fn binaries_are_named_by_package_and_target() {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("cli");
        fs::create_dir_all(package.join("tests/long")).unwrap();
        fs::write(package.join("tests/serve.rs"), "").unwrap();
        fs::write(package.join("tests/long/main.rs"), "").unwrap();
        for (program, expected) in [
            ("target/debug/deps/serve-0123456789abcdef", "cli::serve"),
            ("target/debug/deps/long-0123456789abcdef", "cli::long"),
            ("target/debug/deps/tieline_cli-0123456789abcdef", "cli"),
            ("target/debug/examples/serve-0123456789abcdef", "cli::examples::serve"),
        ] {
            assert_eq!(name(Path::new(program), &package), expected);
        }
    }

    /// Tests that fail in different ways. Most of them fail only the first time they run.
    const TESTS: &str = r#"
        fn is_first(name: &str) -> bool {
            let file = std::path::Path::new("MARKS").join(name);
            let first = !file.exists();
            std::fs::write(file, "").unwrap();
            first
        }
        mod same { #[test] fn passes() {} }
        #[test] fn fails_once() { assert!(!is_first("fails"), "at first"); }
        #[test] fn fails_twice() { panic!("failures:") }
        #[test] fn aborts_once() { if is_first("aborts") { std::process::abort() } }
        #[test] fn leaves_once() { if is_first("leaves") { std::process::exit(0) } }
        #[test] #[should_panic] fn panics_too_late() { if !is_first("panics") { panic!() } }
        #[test] #[ignore] fn hangs_once() {
            if is_first("hangs") {
                let _ = std::process::Command::new("sleep").arg("1000").spawn().unwrap().wait();
            }
        }
    "#;

    #[test]
    fn real_test_binary_gets_a_second_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("x.rs");
        let program = folder.path().join("x");
        let marks = folder.path().to_str().unwrap();
        fs::write(&source, TESTS.replace("MARKS", marks)).unwrap();
        let mut rustc = Command::new("rustc");
        rustc.args(["--test", "--edition=2024", "-o"]).arg(&program).arg(&source);
        assert!(rustc.status().unwrap().success());
        let run_with = |args: &str, hangs: Hangs<'_>| {
            let args: Vec<_> = args.split(' ').map(str::to_owned).collect();
            let suite = Suite { program: program.to_str().unwrap(), args: &args, hangs };
            let (mut record, mut out) = (Record::default(), Vec::new());
            let well = suite.run("x", &mut record, &mut out).ok().unwrap();
            let events = record.events().to_vec();
            let out = String::from_utf8(out).unwrap();
            (well, events, out.trim_end().lines().last().unwrap_or_default().to_owned())
        };
        let run = |args| run_with(args, &|_| false);
        let event = |name: &str, why: &str, is_flaky| Event {
            name: name.into(),
            why: why.into(),
            is_flaky,
        };

        let (well, events, last) = run("fails_once passes");
        assert!(well && last.starts_with("test result: ok. 2 passed; 0 failed; "), "{last}");
        assert_eq!(events, [event("x::fails_once", "at first", true)]);

        let (well, events, last) = run("fails_twice passes");
        assert!(!well && last.starts_with("test result: FAILED. 1 passed; 1 failed; "), "{last}");
        assert_eq!(events[0].name, "x::fails_twice");

        let (well, events, last) = run("too_late");
        assert!(well && last.starts_with("test result: ok. 1 passed; 0 failed; "), "{last}");
        assert!(events[0].why.starts_with("note: test did not panic as expected"), "{events:?}");

        let (well, events, last) = run("aborts_once passes");
        assert!(well && last.starts_with("test result: ok. 2 passed; 0 failed; "), "{last}");
        assert_eq!(events[0].name, "x");
        assert!(events[0].why.contains("SIGABRT"), "{events:?}");

        let (well, events, _) = run("leaves_once passes");
        assert_eq!((well, events), (true, vec![event("x", "ended without a result", true)]));

        // This reports a hang once the test is running, and only the first time.
        let is_first = Cell::new(true);
        let hangs = |_| folder.path().join("hangs").exists() && is_first.replace(false);
        let (well, events, last) = run_with("--ignored", &hangs);
        assert!(last.starts_with("test result: ok. 1 passed; 0 failed; "), "{last}");
        assert!(well && events[0].why.starts_with("hung, "), "{events:?}");
    }
}
