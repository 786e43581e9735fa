//! `cargo xtask tidy`: everything about the checkout that a machine can judge without running it.
//!
//! Each check is a function from the checkout to findings. All of them run, also when an earlier
//! one found something, so that one run shows the whole of it.

mod arrows;
mod code;
mod compiler;
mod length;
mod sans_io;
mod unused;
mod words;

use std::fmt;

use crate::workspace::Workspace;
use crate::{Failure, failed, usage, wants_help};

const HELP: &str = "\
Checks everything a machine can judge without running the program.

Usage: cargo xtask tidy

  lock     Cargo.lock is up to date
  format   cargo fmt
  lints    clippy over all targets, no warning left
  docs     rustdoc, no warning left
  arrows   dependencies between the crates point down (ARCHITECTURE.md)
  sans-io  the protocol crate has no socket, file, clock, thread or runtime
  unused   every dependency is named in the sources it is declared for
  words    no path of a machine, no download address in a package-lock.json
  length   no Rust file above 600 lines; above 400 a note

A finding is one line: where, what, and what to do. Notes do not fail.";

/// Something to mend, or, as a note, to look at.
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

/// Quick ones first: the compiler's take minutes on a fresh machine.
const CHECKS: &[(&str, Check)] = &[
    ("words", words::check),
    ("length", length::check),
    ("arrows", arrows::check),
    ("sans-io", sans_io::check),
    ("unused", unused::check),
    ("format", compiler::format),
    ("lock", compiler::lock),
    ("lints", compiler::lints),
    ("docs", compiler::docs),
];

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    if let Some(arg) = args.first() {
        return Err(usage(format!("tidy takes no argument {arg:?}")));
    }
    match check(&Workspace::here()?) {
        true => Ok(()),
        false => Err(failed("tidy found something to mend")),
    }
}

/// Runs all checks, then lists what they found; true where nothing needs mending.
pub(crate) fn check(workspace: &Workspace) -> bool {
    let mut findings = Vec::new();
    for (name, check) in CHECKS {
        eprintln!("tidy: {name}");
        findings.extend(check(workspace).unwrap_or_else(|failure| {
            let (Failure::Failed(why) | Failure::Usage(why)) = failure;
            vec![Finding::new(name, "could not be checked", why)]
        }));
    }
    // Errors last, where the eye falls.
    findings.sort_by_key(|finding| !finding.is_note);
    for finding in &findings {
        eprintln!("{finding}");
    }
    let notes = findings.iter().filter(|finding| finding.is_note).count();
    let errors = findings.len() - notes;
    eprintln!("tidy: {} checks, {errors} to mend, {notes} notes", CHECKS.len());
    errors == 0
}
