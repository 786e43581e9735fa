//! The protocol crates use no I/O, clock, randomness or runtime, neither through dependencies nor
//! through the standard library. Their tests may.

use std::path::Path;

use crate::Failure;
use crate::tidy::{Finding, code};
use crate::workspace::{Crate, Kind, Workspace};

const CRATES: [&str; 2] = ["tieline-proto", "tieline-mcp"];
const FORBIDDEN_CRATES: &[&str] = &["tokio", "rand", "rustix", "libc", "socket2", "mio"];
const FORBIDDEN_MODULES: &[&str] = &["net", "fs", "process", "thread"];
const FORBIDDEN_CALLS: &[&str] = &["Instant::now", "SystemTime::now"];

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for it in workspace.crates()?.iter().filter(|it| CRATES.contains(&it.name.as_str())) {
        findings.extend(dependencies(it));
        let sources = code::sources(workspace, &it.directory.join("src"))?;
        for (file, code) in code::product(&sources) {
            let found = forbidden(&code).into_iter();
            findings.extend(found.map(|(line, what)| finding(it, &file, line, &what)));
        }
    }
    Ok(findings)
}

fn dependencies(it: &Crate) -> Vec<Finding> {
    let manifest = it.directory.join("Cargo.toml");
    (it.dependencies.iter())
        .filter(|dependency| dependency.kind != Kind::Dev)
        .filter(|dependency| FORBIDDEN_CRATES.contains(&dependency.name.as_str()))
        .map(|dependency| {
            let what = format!("{} depends on {}", it.name, dependency.name);
            Finding::new(
                manifest.display(),
                what,
                "move the code that needs it up to a crate with I/O",
            )
        })
        .collect()
}

fn finding(it: &Crate, file: &Path, line: usize, what: &str) -> Finding {
    Finding::new(
        format!("{}:{line}", file.display()),
        format!("{} uses {what}", it.name),
        "pass it as an argument, or move the code up to a crate with I/O",
    )
}

/// Returns the lines with forbidden uses, in order.
fn forbidden(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for call in FORBIDDEN_CALLS {
        found.extend(code::places(code, call).map(|(line, _)| (line, (*call).to_owned())));
    }
    for (line, behind) in code::places(code, "std") {
        let Some(path) = behind.strip_prefix("::") else { continue };
        for segment in first_segments(path) {
            if FORBIDDEN_MODULES.contains(&segment) {
                found.push((line, format!("std::{segment}")));
            }
        }
    }
    found.sort();
    found
}

/// Returns `fs` for `fs::read`, and `io` and `net` for `{io, net::{TcpStream}}`.
fn first_segments(path: &str) -> Vec<&str> {
    let Some(group) = path.strip_prefix('{') else { return vec![first_word(path)] };
    let mut depth = 0_usize;
    let end = group.find(|character| {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => return true,
            '}' => depth -= 1,
            _ => {}
        }
        false
    });
    let members = group.get(..end.unwrap_or(group.len())).unwrap_or_default();
    let mut depth = 0_usize;
    let members = members.split(|character| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0 && character == ','
    });
    members.map(str::trim_start).map(first_word).collect()
}

fn first_word(text: &str) -> &str {
    text.split(|character: char| !character.is_alphanumeric() && character != '_')
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_uses_are_found() {
        for (code, expected) in [
            ("use std::net::TcpStream;", &["1 std::net"][..]),
            ("a\nlet now = std::time::Instant::now();", &["2 Instant::now"]),
            ("SystemTime::now()", &["1 SystemTime::now"]),
            (
                "use std::{io, fs::{self, File}, thread}; fn net() { {} }",
                &["1 std::fs", "1 std::thread"],
            ),
            ("use std::{io::{Read, net}, fmt}; fn f() { a(b, fs) }", &[]),
            ("use std::{\n    collections::{HashMap, process},\n};\nfs, net", &[]),
            ("use core::net::IpAddr; use std::time::{Duration, Instant};", &[]),
            ("use std::io; use mystd::fs; fn now(instant: Instant) {}", &[]),
        ] {
            let found: Vec<_> =
                forbidden(code).iter().map(|(line, what)| format!("{line} {what}")).collect();
            assert_eq!(found, expected, "{code}");
        }
    }
}
