//! Every dependency is used in the sources it is declared for, and not only in their tests.

use std::path::PathBuf;

use crate::Failure;
use crate::tidy::{Finding, code};
use crate::workspace::{Crate, Dependency, Kind, Workspace};

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for it in workspace.crates()? {
        let sources = code::sources(workspace, &it.directory)?;
        findings.extend(judge(&it, &sources));
    }
    Ok(findings)
}

/// `sources` are all sources of the crate.
fn judge(it: &Crate, sources: &[(PathBuf, String)]) -> Vec<Finding> {
    let product = code::product(sources);
    let is_used = |dependency: &Dependency| {
        let named_in = |(_, text): &&(PathBuf, String)| code::names(text, &dependency.identifier);
        let in_src = |(file, _): &&(PathBuf, String)| file.starts_with(it.directory.join("src"));
        let is_build = |(file, _): &&(PathBuf, String)| *file == it.directory.join("build.rs");
        match dependency.kind {
            Kind::Normal => product.iter().filter(in_src).any(|it| named_in(&it)),
            Kind::Build => product.iter().filter(is_build).any(|it| named_in(&it)),
            // Examples in the documentation are tests as well, so comments count here.
            Kind::Dev => sources.iter().filter(|it| !is_build(it)).any(|it| named_in(&it)),
        }
    };
    (it.dependencies.iter())
        .filter(|dependency| !is_used(dependency))
        .map(|dependency| {
            let (kind, place) = match dependency.kind {
                Kind::Normal => ("dependency", "src outside tests"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_must_be_used_where_it_is_declared() {
        let sources = [
            ("c/src/lib.rs", "//! docs_only::f()\nuse serde_json::Value;\nfn tokio_like() {}"),
            ("c/src/a.rs", "#[cfg(test)]\nmod tests { use only_in_tests::a; }"),
            ("c/tests/t.rs", "use tempfile::tempdir;"),
            ("c/build.rs", "fn main() { cc::Build::new(); }"),
        ];
        let sources = sources.map(|(file, text)| (PathBuf::from(file), text.to_owned()));
        for (name, kind, used) in [
            ("serde-json", Kind::Normal, true),
            ("tokio", Kind::Normal, false),
            ("docs-only", Kind::Normal, false),
            ("docs-only", Kind::Dev, true),
            ("only-in-tests", Kind::Normal, false),
            ("only-in-tests", Kind::Dev, true),
            ("tempfile", Kind::Normal, false),
            ("tempfile", Kind::Dev, true),
            ("cc", Kind::Build, true),
            ("cc", Kind::Normal, false),
            ("cc", Kind::Dev, false),
            ("serde-json", Kind::Build, false),
        ] {
            let it = Crate {
                name: "c".to_owned(),
                directory: "c".into(),
                is_published: true,
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
