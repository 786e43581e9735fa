//! Names of WebSocket subprotocols (RFC 6455, section 1.9).

use std::fmt;
use std::str::FromStr;

use tieline_transport::ConfigError;

use crate::handshake::PLAIN;

/// The name of a WebSocket subprotocol, like `mcp`. Names are compared byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subprotocol(String);

const LONGEST: usize = 64;

impl Subprotocol {
    /// Creates a name from 1 to 64 characters of an HTTP token (RFC 9110, section 5.6.2). `tieline` and
    /// names that begin with `tieline.` are reserved for tieline's own protocols.
    ///
    /// # Errors
    /// The name is too long, has other characters, or is reserved.
    pub fn new(name: impl Into<String>) -> Result<Self, ConfigError> {
        let name = name.into();
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_reserved =
            name.strip_prefix(PLAIN).is_some_and(|it| it.is_empty() || it.starts_with('.'));
        if !(1..=LONGEST).contains(&name.len()) || !name.bytes().all(is_token) || is_reserved {
            let must =
                "be up to 64 letters, digits and !#$%&'*+-.^_`|~, and not begin with `tieline.`";
            return Err(ConfigError { field: "subprotocol", must });
        }
        Ok(Self(name))
    }

    /// Returns the subprotocols that servers accept by default: `mcp` and `acp`.
    pub fn usual() -> Vec<Self> {
        ["mcp", "acp"].map(|name| Self(name.to_owned())).into()
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subprotocol {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::new(name)
    }
}

impl fmt::Display for Subprotocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_http_tokens_and_not_reserved() {
        for name in ["mcp", "acp.v1", "MCP", "tielines", "x!#$%&'*+-.^_`|~", &"x".repeat(64)] {
            assert_eq!(Subprotocol::new(name).unwrap().as_str(), name);
        }
        for name in
            ["", "a b", "a,b", "a\r\nb", "a\"b", "ä", "tieline", "tieline.1", "tieline.token.x"]
        {
            assert!(Subprotocol::new(name).is_err(), "{name}");
        }
        assert!(Subprotocol::new("x".repeat(65)).is_err());
    }
}
