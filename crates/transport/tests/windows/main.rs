//! Windows-specific features: named pipes, jobs, batch files. `cargo xtask windows` runs these tests under
//! Wine.
#![cfg(windows)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod children;
mod pipes;
mod ratios;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Returns a pipe name that only this process uses, and uses only once.
fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("tieline-test-{}-{number}", std::process::id())
}

/// Returns the path of the built `examples/echo.rs`.
fn echo() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("examples/echo.exe")
}
