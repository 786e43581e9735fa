//! What a person types into a POSIX shell.

/// A call of the demo agent's, served at `endpoint`. Both are quoted already.
pub(crate) fn demo_call(tieline: &str, endpoint: &str) -> String {
    let request = r#"echo '{"jsonrpc":"2.0","id":1,"method":"add","params":[2,3]}'"#;
    format!("{request} | {tieline} connect {endpoint}")
}

/// As one word of a command.
pub(crate) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+@%".contains(c);
    if text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
