//! Every dependency must be used by the code for which it is declared. The compiler checks this for
//! libraries and programs. For tests and build scripts, this module searches the text for the
//! dependency's name, because examples in the documentation are also tests.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tidy::{Finding, compiler};
use crate::workspace::{Crate, Dependency, Kind, Workspace};
use crate::{Failure, failed};

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let mut findings = compiler::unused(workspace)?;
    for it in workspace.crates()? {
        findings.extend(judge(&it, &sources(workspace, &it.directory)?));
    }
    Ok(findings)
}

/// Returns the Rust files in a folder and its subfolders, with their text. All paths are relative to the
/// root.
fn sources(workspace: &Workspace, folder: &Path) -> Result<Vec<(PathBuf, String)>, Failure> {
    let is_rust = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "rs");
    (workspace.files()?.into_iter())
        .filter(|file| file.starts_with(folder) && is_rust(file))
        .map(|file| match fs::read_to_string(workspace.root().join(&file)) {
            Ok(text) => Ok((file, text)),
            Err(error) => Err(failed(format!("{}: {error}", file.display()))),
        })
        .collect()
}

/// Returns the findings for a crate whose source files are `sources`.
fn judge(it: &Crate, sources: &[(PathBuf, String)]) -> Vec<Finding> {
    let build = it.directory.join("build.rs");
    let is_used = |dependency: &Dependency| {
        let mut places = sources.iter().filter(|(file, _)| match dependency.kind {
            Kind::Normal => true,
            Kind::Build => *file == build,
            Kind::Dev => *file != build,
        });
        places.any(|(_, text)| names(text, &dependency.identifier))
    };
    (it.dependencies.iter())
        .filter(|dependency| !is_used(dependency))
        .map(|dependency| {
            let (kind, place) = match dependency.kind {
                Kind::Normal => ("dependency", "src"),
                Kind::Dev => ("dev-dependency", "tests, benches, examples and src"),
                Kind::Build => ("build-dependency", "build.rs"),
            };
            Finding::new(
                it.directory.join("Cargo.toml").display(),
                format!("{kind} {} is not used in {place}", dependency.name),
                "remove it, or declare it for the code that uses it",
            )
        })
        .collect()
}

/// Returns whether the text contains the identifier as a whole word.
fn names(text: &str, identifier: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    text.match_indices(identifier).any(|(at, _)| {
        let (before, from) = text.split_at_checked(at).unwrap_or_default();
        let after = from.strip_prefix(identifier).unwrap_or_default();
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_must_be_named_where_it_is_declared() {
        let sources = [
            ("c/src/lib.rs", "//! docs_only::f()\nuse serde_json::Value;\nfn tokio_like() {}"),
            ("c/tests/t.rs", "use tempfile::tempdir;"),
            ("c/build.rs", "fn main() { cc::Build::new(); }"),
        ];
        let sources = sources.map(|(file, text)| (PathBuf::from(file), text.to_owned()));
        for (name, kind, used) in [
            ("serde-json", Kind::Normal, true),
            ("tokio", Kind::Normal, false),
            ("docs-only", Kind::Dev, true),
            ("tempfile", Kind::Dev, true),
            ("tokio", Kind::Dev, false),
            ("cc", Kind::Build, true),
            ("cc", Kind::Dev, false),
            ("serde-json", Kind::Build, false),
        ] {
            let it = Crate {
                name: "c".to_owned(),
                directory: "c".into(),
                is_published: true,
                rust_version: None,
                has_library: false,
                dependencies: vec![Dependency {
                    name: name.to_owned(),
                    identifier: name.replace('-', "_"),
                    kind,
                }],
            };
            assert_eq!(judge(&it, &sources).is_empty(), used, "{name} ({kind:?})");
        }
    }
}
