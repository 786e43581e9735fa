//! Commands for a POSIX shell.

/// Returns a command that calls the demo agent at `endpoint`. Both arguments must be quoted.
pub(crate) fn demo_call(tieline: &str, endpoint: &str) -> String {
    let request = r#"echo '{"jsonrpc":"2.0","id":1,"method":"add","params":[2,3]}'"#;
    format!("{request} | {tieline} connect {endpoint}")
}

/// Returns a command that sets an environment variable.
pub(crate) fn set_variable(name: &str, value: &str) -> String {
    format!("export {name}={value}")
}

/// Returns a command that posts a JSON-RPC request to `url`, with the token in the variable `token` if
/// there is one. `more` has further arguments, and `call` is the end of the request. `more` and `url`
/// must be quoted.
pub(crate) fn curl(more: &str, url: &str, token: Option<&str>, call: &str) -> String {
    let header = token.map(|name| format!(" -H \"Authorization: Bearer ${name}\""));
    let header = header.unwrap_or_default();
    format!("curl {more}{url}{header} -d '{{\"jsonrpc\":\"2.0\",\"id\":1,{call}}}'")
}

/// Quotes `text` as one word, if necessary.
pub(crate) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+@%".contains(c);
    if text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
