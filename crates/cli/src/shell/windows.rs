//! What a person types into a shell of Windows's.

/// A call of the demo agent's, served at `endpoint`: the shells do not agree on how to write JSON in
/// quotes. Both are quoted already.
pub(crate) fn demo_call(tieline: &str, endpoint: &str) -> String {
    format!("{tieline} call {endpoint} add [2,3]")
}

/// As one word of a command.
pub(crate) fn quote(text: &str) -> String {
    if text.contains([' ', '&', '%', '^']) { format!("\"{text}\"") } else { text.into() }
}
