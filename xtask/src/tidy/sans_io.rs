//! The protocol crates must not depend on a crate for I/O, clocks, randomness or a runtime. Clippy
//! checks their own code, for which each crate contains the same `clippy.toml`.

use std::fs;

use crate::tidy::Finding;
use crate::workspace::{Crate, Kind, Workspace};
use crate::{Failure, failed};

const CRATES: [&str; 2] = ["tieline-proto", "tieline-mcp"];
const FORBIDDEN_CRATES: &[&str] = &["tokio", "rand", "rustix", "libc", "socket2", "mio"];

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let mut rules: Option<String> = None;
    for it in workspace.crates()?.iter().filter(|it| CRATES.contains(&it.name.as_str())) {
        findings.extend(dependencies(it));
        let file = it.directory.join("clippy.toml");
        let text = fs::read_to_string(workspace.root().join(&file))
            .map_err(|error| failed(format!("{}: {error}", file.display())))?;
        if *rules.get_or_insert_with(|| text.clone()) != text {
            let remedy = "copy it, so that both crates have the same rules";
            findings.push(Finding::new(file.display(), "differs from another's", remedy));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    #[test]
    fn only_tests_may_depend_on_a_runtime() {
        for (name, kind, findings) in [
            ("bytes", Kind::Normal, 0),
            ("tokio", Kind::Normal, 1),
            ("tokio", Kind::Build, 1),
            ("tokio", Kind::Dev, 0),
        ] {
            let dependency =
                Dependency { name: name.to_owned(), identifier: name.to_owned(), kind };
            let it = Crate {
                name: "tieline-proto".to_owned(),
                directory: "c".into(),
                is_published: true,
                rust_version: None,
                dependencies: vec![dependency],
                has_library: true,
            };
            assert_eq!(dependencies(&it).len(), findings, "{name} {kind:?}");
        }
    }
}
