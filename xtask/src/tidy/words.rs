//! Words that must not be in the repository: paths that exist on one machine only and, in lock files of
//! npm, the addresses from which packages were downloaded.

use std::fs;
use std::path::Path;

use crate::tidy::Finding;
use crate::workspace::Workspace;
use crate::{Failure, failed};

/// Top-level folders that exist on one machine only.
const MACHINE_FOLDERS: &[&str] = &["work", "root"];
/// Folders that contain home directories.
const HOMES: &[&str] = &["home", "Users"];
/// User names that are placeholders.
const ANYBODY: &[&str] = &["you", "me", "user", "USER", "username", "name", "alice", "bob"];

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for file in workspace.files()? {
        let content = fs::read(workspace.root().join(&file))
            .map_err(|error| failed(format!("{}: {error}", file.display())))?;
        // A file that is not UTF-8 is not text.
        if let Ok(text) = str::from_utf8(&content) {
            findings.extend(judge(&file, text));
        }
    }
    Ok(findings)
}

fn judge(file: &Path, text: &str) -> Vec<Finding> {
    let is_npm_lock = file.ends_with("package-lock.json");
    let mut findings = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let mut finding = |what: String, remedy: &str| {
            findings.push(Finding::new(format!("{}:{number}", file.display()), what, remedy));
        };
        if let Some(path) = machine_path(line) {
            finding(
                format!("{path} is a path that exists on one machine only"),
                "use a relative path or a placeholder",
            );
        }
        if is_npm_lock && line.contains("\"resolved\"") {
            let remedy = "remove it: `npm install --omit-lockfile-registry-resolved`";
            finding("a download address".to_owned(), remedy);
        }
    }
    findings
}

/// Returns the start of the first path in the line that names a folder of one machine or user.
fn machine_path(line: &str) -> Option<&str> {
    line.match_indices('/').find_map(|(at, _)| {
        let (before, path) = line.split_at_checked(at)?;
        // `crates/root/x` and `$HOME/work/x` do not start at this slash.
        let is_absolute =
            !before.ends_with(|c: char| c.is_alphanumeric() || "_-.~}>)]*".contains(c));
        let mut segments = path.strip_prefix('/')?.split('/');
        let top = segments.next()?;
        let below = segments.next()?;
        let person = below.split(|c: char| !c.is_alphanumeric() && !"._-".contains(c)).next()?;

        let names_person = HOMES.contains(&top) && !person.is_empty() && !ANYBODY.contains(&person);
        let shown = if names_person { top.len() + person.len() + 2 } else { top.len() + 2 };
        (is_absolute && (MACHINE_FOLDERS.contains(&top) || names_person))
            .then(|| path.get(..shown))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables use `|` for the first slash, so that this file is not reported.
    fn path_in(line: &str) -> Option<String> {
        machine_path(&line.replace('|', "/")).map(|path| path.replacen('/', "|", 1))
    }

    #[test]
    fn path_of_one_machine_is_found() {
        for (line, expected) in [
            ("cd |work/main", "|work/"),
            ("\"|root/.cargo\"", "|root/"),
            ("see |home/jane/x", "|home/jane"),
            ("(|Users/j.doe)", "|Users/j.doe"),
            ("file://|home/jane", "|home/jane"),
            ("|home/you/a and |work/b", "|work/"),
            ("PATH=a:|root/bin", "|root/"),
        ] {
            assert_eq!(path_in(line).as_deref(), Some(expected), "{line}");
        }
    }

    #[test]
    fn general_or_relative_path_is_allowed() {
        for line in [
            "|home/you/.config",
            "|home/<name>/x",
            "|home/$USER/x",
            "|home/",
            "crates/root/src",
            "network/work/x",
            ".|work/x",
            "$HOME|work/x",
            "{root}|work/x",
            "https://example.com/home/jane",
            "|working/x",
            "|root",
            "|run/agent.sock",
        ] {
            assert_eq!(path_in(line), None, "{line}");
        }
    }

    #[test]
    fn download_addresses_are_refused_in_lock_files_of_npm() {
        let line = "  \"resolved\": \"https://example.com/a.tgz\",";
        let found = judge(Path::new("fixtures/node/package-lock.json"), line);
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().starts_with("fixtures/node/package-lock.json:1: "));
        assert!(judge(Path::new("README.md"), line).is_empty());
    }
}
