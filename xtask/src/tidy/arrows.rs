//! Dependencies between the project's crates must point down only, and published crates must not depend
//! on unpublished ones.

use crate::Failure;
use crate::tidy::Finding;
use crate::workspace::{Crate, Kind, Workspace};

/// The level of a crate. Crates of the same level do not depend on each other.
#[derive(Clone, Copy)]
enum Place {
    Level(u8),
    /// A crate for building, testing or measuring. It may depend on all crates, but no published crate
    /// may depend on it.
    Unpublished,
}
use Place::{Level, Unpublished};

const PLACES: &[(&str, Place)] = &[
    ("tieline-cli", Level(6)),
    // The facade contains the crates that library users need, which excludes the gateway and the
    // program.
    ("tieline", Level(5)),
    ("tieline-gateway", Level(5)),
    ("tieline-agents", Level(4)),
    ("tieline-bus", Level(4)),
    ("tieline-rpc", Level(3)),
    ("tieline-link", Level(3)),
    ("tieline-http", Level(2)),
    ("tieline-transport", Level(1)),
    ("tieline-mcp", Level(1)),
    ("tieline-proto", Level(0)),
    ("tieline-testkit", Unpublished),
    ("tieline-bench", Unpublished),
    ("xtask", Unpublished),
];

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    Ok(workspace.crates()?.iter().flat_map(judge).collect())
}

fn judge(it: &Crate) -> Vec<Finding> {
    let manifest = it.directory.join("Cargo.toml");
    let finding = |what: String, remedy: &str| Finding::new(manifest.display(), what, remedy);
    match place(&it.name) {
        None => {
            vec![finding(format!("{} has no level", it.name), concat!("give it one in ", file!()))]
        }
        Some(Unpublished) if it.is_published => {
            vec![finding(format!("{} is publishable", it.name), "set `publish = false`")]
        }
        Some(Unpublished) => Vec::new(),
        Some(Level(_)) if !it.is_published => vec![finding(
            format!("{} is not publishable", it.name),
            "remove `publish = false`: crates that depend on it are published",
        )],
        Some(Level(level)) => (it.dependencies.iter())
            .filter(|dependency| dependency.kind != Kind::Dev)
            .filter_map(|dependency| match place(&dependency.name)? {
                Level(below) if below < level => None,
                Level(_) => Some(finding(
                    format!("{} depends on {}, which is not below it", it.name, dependency.name),
                    "reverse the dependency or move the code",
                )),
                Unpublished => Some(finding(
                    format!("{} depends on {}, which is unpublished", it.name, dependency.name),
                    "make it a dev-dependency or move the code",
                )),
            })
            .collect(),
    }
}

fn place(name: &str) -> Option<Place> {
    PLACES.iter().find(|(known, _)| *known == name).map(|(_, place)| *place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    #[test]
    fn arrows_point_down() {
        let findings = |from, to, kind| {
            judge(&a_crate(from, &[(to, kind)])).iter().map(Finding::to_string).collect::<Vec<_>>()
        };
        for (from, to, kind) in [
            ("tieline-transport", "tieline-proto", Kind::Normal),
            ("tieline-cli", "tieline-gateway", Kind::Normal),
            ("tieline-cli", "tieline", Kind::Build),
            ("tieline", "tieline-agents", Kind::Normal),
            ("tieline-proto", "tieline-testkit", Kind::Dev),
            ("tieline-proto", "tieline-transport", Kind::Dev),
            ("tieline-proto", "bytes", Kind::Normal),
            ("tieline-testkit", "tieline-cli", Kind::Normal),
        ] {
            assert_eq!(findings(from, to, kind), [""; 0], "{from} → {to} ({kind:?})");
        }
        for (from, to, kind) in [
            ("tieline-proto", "tieline-transport", Kind::Normal),
            ("tieline-rpc", "tieline-link", Kind::Normal),
            ("tieline-link", "tieline-rpc", Kind::Build),
            ("tieline", "tieline-gateway", Kind::Normal),
            ("tieline", "tieline-cli", Kind::Normal),
            ("tieline-gateway", "tieline", Kind::Normal),
            ("tieline-transport", "tieline-testkit", Kind::Normal),
            ("tieline-cli", "tieline-bench", Kind::Build),
        ] {
            let found = findings(from, to, kind);
            assert_eq!(found.len(), 1, "{from} → {to} ({kind:?})");
            assert!(found[0].starts_with("a/folder/Cargo.toml: "), "{found:?}");
        }
    }

    #[test]
    fn every_crate_needs_a_place() {
        let findings = judge(&a_crate("tieline-new", &[]));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].to_string().contains("xtask/src/tidy/arrows.rs"), "{}", findings[0]);
    }

    #[test]
    fn publication_must_match_the_table() {
        for name in ["xtask", "tieline-rpc"] {
            let right = a_crate(name, &[]);
            let wrong = Crate { is_published: !right.is_published, ..a_crate(name, &[]) };
            assert_eq!((judge(&right).len(), judge(&wrong).len()), (0, 1), "{name}");
        }
    }

    fn a_crate(name: &str, dependencies: &[(&str, Kind)]) -> Crate {
        Crate {
            name: name.to_owned(),
            directory: "a/folder".into(),
            is_published: !matches!(place(name), Some(Unpublished)),
            rust_version: None,
            dependencies: dependencies.iter().map(|(name, kind)| dependency(name, *kind)).collect(),
            has_library: false,
        }
    }

    fn dependency(name: &str, kind: Kind) -> Dependency {
        Dependency { name: name.to_owned(), identifier: name.replace('-', "_"), kind }
    }
}
