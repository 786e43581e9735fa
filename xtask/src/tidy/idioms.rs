//! Idioms that made the project's prose hard to read (CONTRIBUTING.md, "How we write").

use std::fs;
use std::path::Path;

use crate::tidy::Finding;
use crate::workspace::Workspace;
use crate::{Failure, failed};

/// Words that treat things as persons, or replace the terms of the field. They are in lower case, so
/// that the constant for the uid of the user `nobody` is not found.
const IDIOMS: [(&str, &str); 8] = [
    ("whoever", "name the client, process or caller"),
    ("whomever", "name the client, process or caller"),
    ("somebody", "name the client, process or user"),
    ("everybody", "name the clients, processes or users"),
    ("nobody", "write that no client, process or reader does it"),
    ("in vain", "write that it timed out, or had no effect"),
    ("says no more", "write that it closed its side"),
    ("lives on", "write that it continues"),
];

/// Files that quote the idioms, and texts about the Unix user `nobody`.
const ALLOWED: [&str; 5] = [
    "CONTRIBUTING.md",
    "xtask/src/tidy/idioms.rs",
    "crates/cli/tests/status.rs",
    "crates/transport/src/unix/held.rs",
    "crates/transport/tests/unix/other_users.rs",
];

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for file in workspace.files()? {
        let is_prose = file.extension().is_some_and(|extension| {
            ["rs", "md", "js", "mjs", "py", "html", "toml", "sh"].iter().any(|it| extension == *it)
        });
        if !is_prose || ALLOWED.iter().any(|allowed| file == Path::new(allowed)) {
            continue;
        }
        let text = fs::read_to_string(workspace.root().join(&file))
            .map_err(|error| failed(format!("{}: {error}", file.display())))?;
        findings.extend(judge(&file, &text));
    }
    Ok(findings)
}

fn judge(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        for (idiom, remedy) in IDIOMS {
            if has_words(line, idiom) {
                let place = format!("{}:{number}", file.display());
                findings.push(Finding::new(place, format!("has the idiom {idiom:?}"), remedy));
            }
        }
    }
    findings
}

/// Returns true if the line contains the words, as whole words in capitalized or lower-case form.
fn has_words(line: &str, words: &str) -> bool {
    let first = words.chars().next().map_or(String::new(), |first| first.to_uppercase().collect());
    let capitalized = first + words.get(1..).unwrap_or_default();
    [words, &capitalized].iter().any(|words| {
        line.match_indices(words).any(|(at, found)| {
            let before = line.get(..at).and_then(|it| it.chars().next_back());
            let after = line.get(at + found.len()..).and_then(|it| it.chars().next());
            // An underscore separates the words of a name.
            [before, after].iter().flatten().all(|it| !it.is_alphanumeric())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idioms_are_found_as_whole_words_in_prose_and_names() {
        for (line, expected) in [
            ("Whoever connects is refused.", 1),
            ("fn whoever_connects_is_refused() {", 1),
            ("// It waits in vain, and nobody knows.", 2),
            ("const NOBODY: u32 = 65_534;", 0),
            ("the main vane", 0),
            ("a client that connects is refused", 0),
        ] {
            assert_eq!(judge(Path::new("a.rs"), line).len(), expected, "{line}");
        }
        let found = judge(Path::new("a.rs"), "fine\nnobody reads it");
        let says =
            "a.rs:2: has the idiom \"nobody\"; write that no client, process or reader does it";
        assert_eq!(found[0].to_string(), says);
    }
}
