//! The manual pages and completion scripts can be created, and none is empty.

use std::fs;
use std::path::PathBuf;

use crate::Failure;
use crate::man::make;
use crate::tidy::Finding;
use crate::workspace::Workspace;

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let files = make(workspace)?;
    let is_empty = |file: &PathBuf| !fs::metadata(file).is_ok_and(|it| it.len() > 0);
    let findings = files.into_iter().filter(is_empty).map(|file| {
        Finding::new(file.display(), "is missing or empty", "see crates/cli/src/man.rs")
    });
    Ok(findings.collect())
}
