//! The text of a `pipe:` endpoint: a name, or its full Windows path.

use std::fmt;

use super::invalid::invalid;
use super::percent;
use crate::error::TransportError;

/// The directory of named pipes on Windows.
const PIPES: &str = r"\\.\pipe\";

/// Returns the pipe name in a full pipe path, which needs no scheme because it is unambiguous.
pub(super) fn name_in_path(text: &str) -> Option<&str> {
    text.strip_prefix(PIPES).filter(|name| !name.is_empty())
}

pub(super) fn write(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    // A name that begins with a backslash would parse as a path.
    match name.strip_prefix('\\') {
        Some(rest) => {
            f.write_str("%5C")?;
            percent::write(f, rest.as_bytes())
        }
        None => percent::write(f, name.as_bytes()),
    }
}

pub(super) fn parse(rest: &str) -> Result<String, TransportError> {
    let name = rest.strip_prefix(PIPES).unwrap_or(rest);
    if name.contains('?') {
        return Err(invalid(
            "a pipe endpoint takes no options after `?`".into(),
            "if the name has a question mark, write it as %3F",
        ));
    }
    if name.starts_with(r"\\") {
        let problem = format!("`{name}` is not a pipe on this machine");
        return Err(invalid(problem, r"write it like pipe:agent or pipe:\\.\pipe\agent"));
    }
    let name = percent::decode(name)?.into_string();
    let name = name.map_err(|_| invalid("the name of a pipe is not UTF-8".into(), ""))?;
    match name.is_empty() {
        true => Err(invalid("`pipe:` needs a name".into(), "write it like pipe:agent")),
        false => Ok(name),
    }
}
