//! Dependencies must come from crates.io and have licenses that `deny.toml` allows. `cargo deny` checks
//! more if it is installed. It is not installed automatically, because it would have to be built from
//! source on each fresh machine.

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use super::compiler::above;
use crate::tidy::Finding;
use crate::workspace::{Workspace, succeeds};
use crate::{Failure, failed};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let rules = fs::read_to_string(workspace.root().join("deny.toml")).map_err(failed)?;
    let allowed = allowed(&rules);
    let mut findings = Vec::new();
    for package in workspace.packages()? {
        findings.extend(judge(&package, &allowed));
    }
    let mut version = workspace.cargo();
    version.args(["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !succeeds(&mut version)? {
        let what = "duplicate and wildcard dependencies were not checked: cargo-deny is missing";
        let remedy = "run `cargo install --locked cargo-deny`";
        findings.push(Finding::new("deny.toml", what, remedy).note());
        return Ok(findings);
    }
    // The advisories are not checked, because they are downloaded from GitHub; see docs/releasing.md.
    let command = ["deny", "--offline", "check", "licenses", "bans", "sources"];
    if !succeeds(workspace.cargo().args(command))? {
        findings.push(above("cargo deny", &format!("`cargo {}`", command.join(" "))));
    }
    Ok(findings)
}

/// Checks a package in the form of `cargo metadata`.
fn judge(package: &Value, allowed: &[&str]) -> Vec<Finding> {
    let text = |member| package.get(member).and_then(Value::as_str);
    let name = text("name").unwrap_or_default();
    let mut findings = Vec::new();
    if text("source").is_some_and(|source| source != CRATES_IO) {
        let remedy = "use a version from there";
        findings.push(Finding::new(name, "does not come from crates.io", remedy));
    }
    match text("license") {
        Some(license) if is_allowed(license, allowed) => {}
        license => {
            let what = format!("has the license {}", license.unwrap_or("of a file of its own"));
            let remedy =
                "read it, and add it to `allow` in deny.toml or do without this dependency";
            findings.push(Finding::new(name, what, remedy));
        }
    }
    findings
}

/// Returns the licenses in `allow` of `deny.toml`.
fn allowed(rules: &str) -> Vec<&str> {
    let list = rules.split_once("\nallow = [").and_then(|(_, rest)| rest.split_once(']'));
    // Every second part is in quotes.
    list.map(|(list, _)| list.split('"').skip(1).step_by(2).collect()).unwrap_or_default()
}

/// Evaluates an SPDX expression, in which AND binds closer than OR. A slash is an old form of OR.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = expression.split_ascii_whitespace().peekable();
    let is_allowed = any(&mut words, allowed);
    is_allowed && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitAsciiWhitespace<'a>>;

fn any(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut is_allowed = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        is_allowed |= all(words, allowed);
    }
    is_allowed
}

fn all(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut is_allowed = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        is_allowed &= one(words, allowed);
    }
    is_allowed
}

fn one(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let is_allowed = any(words, allowed);
        return words.next_if_eq(&")").is_some() && is_allowed;
    }
    let mut license = words.next().unwrap_or_default().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        license = format!("{license} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&license.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn license_expressions_are_evaluated() {
        let rules = "[licenses]\nallow = [\n    \"MIT\",\n    \"ISC\", \"Apache-2.0 WITH LLVM-exception\"\n]\n";
        let allowed = allowed(rules);
        assert_eq!(allowed, ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0 OR MIT", true),
            ("Apache-2.0/MIT", true),
            ("MIT AND ISC", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("(GPL-3.0 OR MIT) AND ISC", true),
            ("GPL-3.0 OR MIT AND ISC", true),
            ("", false),
            ("GPL-3.0", false),
            ("MIT AND GPL-3.0", false),
            ("MIT WITH something", false),
            ("(MIT", false),
            ("MIT)", false),
        ] {
            assert_eq!(is_allowed(expression, &allowed), expected, "{expression:?}");
        }
    }

    #[test]
    fn foreign_sources_and_missing_licenses_are_found() {
        let package = |source: &str, license: Option<&str>| serde_json::json!({ "name": "x", "source": source, "license": license });
        assert!(judge(&package(CRATES_IO, Some("MIT")), &["MIT"]).is_empty());
        assert_eq!(judge(&package("git+https://x", Some("MIT")), &["MIT"]).len(), 1);
        assert_eq!(judge(&package(CRATES_IO, None), &["MIT"]).len(), 1);
    }
}
