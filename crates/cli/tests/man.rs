//! Tests that every command has a manual page with all its options, about which groff does not warn.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::Command;

use support::{Program, tieline};

fn help(line: &[&str]) -> String {
    Program::run(&mut tieline(line), "").stdout
}

/// Returns the option that a line of a help text describes.
fn option(line: &str) -> Option<&str> {
    let word = line.trim_start().split([' ', '=', '[', ',']).next()?;
    let long = line.split([' ', '=', '[', ',']).find(|word| word.starts_with("--"))?;
    // A line of text may also begin with an option, but more words follow there, and no value.
    let is_definition = line.starts_with("  ") && word.starts_with('-');
    let depth = line.len() - line.trim_start().len();
    (is_definition && depth <= 6).then_some(long.trim_end_matches('.'))
}

#[test]
fn every_command_has_a_page_with_all_its_options() {
    let directory = tempfile::tempdir().unwrap();
    let finished = Program::run(tieline(["man"]).arg(directory.path()), "");
    assert_eq!((finished.code, &*finished.stderr), (Some(0), ""), "{finished:?}");
    let pages: Vec<_> = finished.stdout.lines().collect();
    let all = help(&["--help"]);
    let (_, commands) = all.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<_> = names.filter_map(|line| line.split_whitespace().next()).collect();
    let names: Vec<_> = names.into_iter().filter(|name| *name != "help").collect();
    assert_eq!(pages.len(), names.len() + 1, "{pages:?} {names:?}");
    for page in pages {
        let name = page.strip_suffix(".1").unwrap();
        let command = name.strip_prefix("tieline-");
        let help = help(&command.into_iter().chain(["--help"]).collect::<Vec<_>>());
        let mut groff = Command::new("groff");
        // The page is wider than any line, so that no line is broken.
        groff
            .args(["-ww", "-man", "-Tascii", "-P-cbou", "-rLL=400n"])
            .arg(directory.path().join(page));
        let shown = Program::run(&mut groff, "");
        assert_eq!((shown.code, &*shown.stderr), (Some(0), ""), "{page}");
        let options: Vec<_> = help.lines().filter_map(option).collect();
        assert!(options.len() >= 3, "{page}: {options:?}");
        for option in options {
            assert!(shown.stdout.contains(option), "{page} lacks {option}");
        }
        let examples = help.split_once("\nExamples:\n").map(|(_, examples)| examples);
        let first = examples.and_then(|it| it.lines().next()).map(str::trim).unwrap_or_default();
        assert!(shown.stdout.contains(first), "{page} lacks {first}");
        assert!(shown.stdout.contains("SEE ALSO"), "{page}");
    }
    let missing = directory.path().join("missing");
    let finished = Program::run(tieline(["man"]).arg(missing), "");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("cannot write"), "{finished:?}");
}
