//! Executable files that tests create.
//!
//! Other processes write these files. A child that another test is starting has a copy of every
//! descriptor until it executes its program, and a file that is open for writing cannot be executed.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a script or another executable file that every user may run.
#[track_caller]
pub fn write(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut install = install.spawn().unwrap();
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
}

/// Copies an executable file.
#[track_caller]
pub fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().unwrap().success());
}
