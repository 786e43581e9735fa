//! Commands for a POSIX shell.

/// Returns a command that calls the demo agent at `endpoint`. Both arguments must be quoted.
pub(crate) fn demo_call(tieline: &str, endpoint: &str) -> String {
    let request = r#"echo '{"jsonrpc":"2.0","id":1,"method":"add","params":[2,3]}'"#;
    format!("{request} | {tieline} connect {endpoint}")
}

/// Quotes `text` as one word, if necessary.
pub(crate) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+@%".contains(c);
    if text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
