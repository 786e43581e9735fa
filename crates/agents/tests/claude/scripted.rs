//! A shell script in place of the real program.

use serde_json::Value;
use tempfile::TempDir;
use tieline_agents::claude::{Inbox, Message, Options};
use tieline_testkit::executable;

use crate::next;

/// Functions for the scripts.
const PRELUDE: &str = r#"#!/bin/sh
# Reads the next line, and its request id into $id.
read_line() { IFS= read -r line || exit 0; id=${line#*\"request_id\":\"}; id=${id%%\"*}; }
write_line() { printf '%s\n' "$1"; }
# Reports the line to the test.
report() { write_line "{\"type\":\"reported\",\"it\":$line}"; }
ask() { write_line "{\"type\":\"control_request\",\"request_id\":\"$1\",\"request\":$2}"; }
cancel() { write_line "{\"type\":\"control_cancel_request\",\"request_id\":\"$1\"}"; }
answer() {
  write_line "{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\"request_id\":\"$1\",\"response\":{\"ok\":$2}}}"
}
report_all() { while :; do read_line; report; done; }
"#;

/// Creates the program. Its directory must outlive it.
pub(crate) fn scripted(script: &str) -> (TempDir, Options) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("scripted");
    executable::write(&program, &format!("{PRELUDE}{script}\n"));
    let cwd = Some(directory.path().to_owned());
    (directory, Options { program: Some(program), cwd, ..Options::default() })
}

/// Receives the next line that the program reports.
pub(crate) async fn reported(inbox: &mut Inbox) -> Value {
    next(inbox, "a reported line", |message| match message {
        Message::Other(mut raw) if raw["type"] == "reported" => Some(raw["it"].take()),
        _ => None,
    })
    .await
}
