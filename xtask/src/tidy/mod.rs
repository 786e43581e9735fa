//! `cargo xtask tidy`: all checks of the checkout except its tests.
//!
//! Each check is a function from the checkout to findings. All checks run even if an earlier one has
//! findings, so that one run shows all findings.

mod arrows;
mod compiler;
mod deny;
mod idioms;
mod length;
mod man;
mod msrv;
mod sans_io;
mod unused;
mod words;

use std::fmt;

use crate::workspace::Workspace;
use crate::{Failure, failed, is_ci, usage, wants_help};

const HELP: &str = "\
Run all checks except the tests.

Usage: cargo xtask tidy [--install] [CHECK...]

  --install  unpack the compiler that `msrv` needs into ~/.cache/tieline (Debian 12). CI=true in the
             environment implies it.

  lock     Cargo.lock is up to date
  format   cargo fmt
  lints    clippy over all targets, without warnings
  features clippy over the library with each combination of its features, and tests without TLS
  docs     rustdoc, without warnings
  msrv     the published crates build with the oldest Rust that they declare; a note if it is missing
  package  every crate can be packaged for publication
  deny     dependencies come from crates.io and have licenses of deny.toml; also cargo-deny, if installed
  man      manual pages and completion scripts can be created (`cargo xtask man`)
  arrows   dependencies between the crates point down (ARCHITECTURE.md)
  sans-io  the protocol crates depend on no runtime (clippy finds sockets, files, clocks and threads)
  unused   every dependency is used in the sources for which it is declared
  words    no paths of one machine, no download addresses in a package-lock.json
  idioms   no words that CONTRIBUTING.md advises against, and what to write instead
  length   no Rust file above 600 lines; a note above 400

Each finding is one line: where, what, and what to do. Notes do not fail.";

/// A problem to fix, or a note.
pub(crate) struct Finding {
    place: String,
    what: String,
    remedy: String,
    is_note: bool,
}

impl Finding {
    pub(crate) fn new(
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

/// The quick checks come first, because the compiler takes minutes on a fresh machine.
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
    ("msrv", msrv::check),
    ("deny", deny::check),
    ("docs", compiler::docs),
    ("package", compiler::package),
    ("man", man::check),
];

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    let (options, names): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|arg| *arg == "--install");
    if let Some(unknown) = names.iter().find(|name| !CHECKS.iter().any(|(it, _)| it == *name)) {
        return Err(usage(format!("unknown argument or check for tidy: {unknown:?}")));
    }
    let may_install = !options.is_empty() || is_ci();
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|it| *it == name);
    match check_some(&Workspace::here()?, may_install, is_wanted) {
        true => Ok(()),
        false => Err(failed("tidy found problems")),
    }
}

/// Runs all checks, and then lists their findings. Returns true if there are no errors. Installs missing
/// programs only if that is allowed.
pub(crate) fn check(workspace: &Workspace, may_install: bool) -> bool {
    check_some(workspace, may_install, |_| true)
}

fn check_some(workspace: &Workspace, may_install: bool, is_wanted: impl Fn(&str) -> bool) -> bool {
    let mut findings = Vec::new();
    if may_install
        && is_wanted("msrv")
        && let Err(failure) = msrv::install(workspace)
    {
        let (Failure::Failed(why) | Failure::Usage(why)) = failure;
        findings.push(Finding::new("rust-version", "the compiler was not installed", why).note());
    }
    let wanted = CHECKS.iter().filter(|(name, _)| is_wanted(name));
    let count = wanted.clone().count();
    for (name, check) in wanted {
        eprintln!("tidy: {name}");
        findings.extend(check(workspace).unwrap_or_else(|failure| {
            let (Failure::Failed(why) | Failure::Usage(why)) = failure;
            vec![Finding::new(name, "cannot be checked", why)]
        }));
    }
    // Errors come last, where they are noticed.
    findings.sort_by_key(|finding| !finding.is_note);
    for finding in &findings {
        eprintln!("{finding}");
    }
    let notes = findings.iter().filter(|finding| finding.is_note).count();
    let errors = findings.len() - notes;
    eprintln!("tidy: {} checks, {errors} errors, {notes} notes", count);
    errors == 0
}
