//! The folder of the workspace.

use std::path::PathBuf;

use crate::compare::Result;

/// Returns the root folder according to cargo, so that a binary built in one checkout never writes to
/// another.
pub(crate) fn workspace_root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .ok_or("start it as `cargo xtask bench`: CARGO_MANIFEST_DIR is not set")?;
    let root = PathBuf::from(manifest).ancestors().nth(2).map(PathBuf::from);
    root.ok_or_else(|| "the crate is not in a workspace".into())
}
