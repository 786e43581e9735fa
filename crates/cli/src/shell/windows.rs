//! Commands for a Windows shell.

/// Returns a command that calls the demo agent at `endpoint`, without JSON strings, which each shell quotes
/// differently. Both arguments must be quoted.
pub(crate) fn demo_call(tieline: &str, endpoint: &str) -> String {
    format!("{tieline} call {endpoint} add [2,3]")
}

/// Quotes `text` as one word, if necessary.
pub(crate) fn quote(text: &str) -> String {
    if text.contains([' ', '&', '%', '^']) { format!("\"{text}\"") } else { text.into() }
}
