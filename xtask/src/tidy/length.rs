//! Files must be short enough to be read in one sitting. A file above the first limit may contain more
//! than one thing.

use std::fs;

use crate::tidy::Finding;
use crate::workspace::Workspace;
use crate::{Failure, failed};

const NOTED_LINES: usize = 400;
const MAX_LINES: usize = 600;

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for file in workspace.files()? {
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(workspace.root().join(&file))
            .map_err(|error| failed(format!("{}: {error}", file.display())))?;
        findings.extend(judge(&file.to_string_lossy(), text.lines().count()));
    }
    Ok(findings)
}

fn judge(file: &str, lines: usize) -> Option<Finding> {
    let finding = |remedy| Finding::new(file, format!("{lines} lines"), remedy);
    match lines {
        _ if lines > MAX_LINES => Some(finding("split it: it contains more than one thing")),
        _ if lines > NOTED_LINES => {
            Some(finding("check whether it contains more than one thing").note())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_noted_and_longer_ones_refused() {
        let judged = |lines| judge("a.rs", lines).map(|finding| finding.is_note);
        assert_eq!([400, 401, 600, 601].map(judged), [None, Some(true), Some(true), Some(false)]);
    }
}
