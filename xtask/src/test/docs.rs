//! The tests in the documentation. rustdoc cannot run a single one of them, so the second attempt runs
//! all of them again.

use std::io::{self, Write};
use std::process::Command;

use super::attempts::once_more;
use super::record::Record;
use super::watch::{hangs, watch};
use crate::Failure;

/// Runs `cargo test --doc`, which `command` creates. Returns true if all tests passed in the end.
pub(super) fn run(
    record: &mut Record,
    mut command: impl FnMut() -> Command,
) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    let mut attempt = || {
        let said = watch(&mut command(), &hangs, |bytes| _ = out.write_all(bytes));
        let _ = out.flush();
        said
    };
    let first = attempt()?;
    let failures = first.failures();
    let (is_well, closing) = match failures.is_empty() {
        true => (true, first.held),
        false => once_more("doc", &first, failures, record, attempt)?,
    };
    let _ = out.write_all(&closing);
    Ok(is_well)
}
