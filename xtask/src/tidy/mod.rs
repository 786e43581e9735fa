//! `cargo xtask tidy`: all checks of the checkout that do not run the program.
//!
//! Each check is a function from the checkout to findings. All checks run, even if an earlier one found
//! something, so that one run shows all findings.

mod arrows;
mod compiler;
mod idioms;
mod length;
mod sans_io;
mod unused;
mod words;

use std::fmt;

use crate::workspace::Workspace;
use crate::{Failure, failed, usage, wants_help};

const HELP: &str = "\
Run all checks that do not run the program.

Usage: cargo xtask tidy

  lock     Cargo.lock is up to date
  format   cargo fmt
  lints    clippy over all targets, without warnings
  features clippy over the library with each combination of its features
  docs     rustdoc, without warnings
  package  every crate can be packaged for publication
  arrows   dependencies between the crates point down (ARCHITECTURE.md)
  sans-io  the protocol crate depends on no runtime (clippy finds sockets, files, clocks and threads)
  unused   every dependency is used in the sources it is declared for
  words    no paths of one machine, no download addresses in a package-lock.json
  idioms   no words that CONTRIBUTING.md advises against, and what to write instead
  length   no Rust file above 600 lines; a note above 400

Each finding is one line: where, what, and what to do. Notes do not fail.";

/// A problem to fix, or a note.
struct Finding {
    place: String,
    what: String,
    remedy: String,
    is_note: bool,
}

impl Finding {
    fn new(
        place: impl fmt::Display,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        let (place, what, remedy) = (place.to_string(), what.into(), remedy.into());
        Finding { place, what, remedy, is_note: false }
    }

    fn note(self) -> Finding {
        Finding { is_note: true, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_note { "note: " } else { "" };
        write!(f, "{kind}{}: {}; {}", self.place, self.what, self.remedy)
    }
}

type Check = fn(&Workspace) -> Result<Vec<Finding>, Failure>;

/// Quick ones first: the compiler takes minutes on a fresh machine.
const CHECKS: &[(&str, Check)] = &[
    ("words", words::check),
    ("idioms", idioms::check),
    ("length", length::check),
    ("arrows", arrows::check),
    ("sans-io", sans_io::check),
    ("format", compiler::format),
    ("lock", compiler::lock),
    ("lints", compiler::lints),
    ("unused", unused::check),
    ("features", compiler::features),
    ("docs", compiler::docs),
    ("package", compiler::package),
];

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    if let Some(arg) = args.first() {
        return Err(usage(format!("unknown argument for tidy: {arg:?}")));
    }
    match check(&Workspace::here()?) {
        true => Ok(()),
        false => Err(failed("tidy found problems")),
    }
}

/// Runs all checks, then lists their findings. Returns true if there are no errors.
pub(crate) fn check(workspace: &Workspace) -> bool {
    let mut findings = Vec::new();
    for (name, check) in CHECKS {
        eprintln!("tidy: {name}");
        findings.extend(check(workspace).unwrap_or_else(|failure| {
            let (Failure::Failed(why) | Failure::Usage(why)) = failure;
            vec![Finding::new(name, "cannot be checked", why)]
        }));
    }
    // Errors last, where they are noticed.
    findings.sort_by_key(|finding| !finding.is_note);
    for finding in &findings {
        eprintln!("{finding}");
    }
    let notes = findings.iter().filter(|finding| finding.is_note).count();
    let errors = findings.len() - notes;
    eprintln!("tidy: {} checks, {errors} errors, {notes} notes", CHECKS.len());
    errors == 0
}
