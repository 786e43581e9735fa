//! Commands for a Windows shell.

/// Returns a command that calls the demo agent at `endpoint`. It has no JSON strings, because each shell
/// quotes them differently. Both arguments must be quoted.
pub(crate) fn demo_call(tieline: &str, endpoint: &str) -> String {
    format!("{tieline} call {endpoint} add [2,3]")
}

/// Returns a command that sets an environment variable.
pub(crate) fn set_variable(name: &str, value: &str) -> String {
    format!("set {name}={value}")
}

/// Returns a command that posts a JSON-RPC request to `url`, with the token in the variable `token` if
/// there is one. `more` has further arguments, and `call` is the end of the request. `more` and `url`
/// must be quoted.
pub(crate) fn curl(more: &str, url: &str, token: Option<&str>, call: &str) -> String {
    let header = token.map(|name| format!(" -H \"Authorization: Bearer %{name}%\""));
    let header = header.unwrap_or_default();
    let call = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,{call}}}").replace('"', "\\\"");
    format!("curl {more}{url}{header} -d \"{call}\"")
}

/// Quotes `text` as one word, if necessary.
pub(crate) fn quote(text: &str) -> String {
    if text.contains([' ', '&', '%', '^']) { format!("\"{text}\"") } else { text.into() }
}
