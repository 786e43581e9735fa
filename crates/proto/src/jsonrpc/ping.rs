//! How to find out whether a program still answers, expressed as data.

/// The requests to which a program that works answers at once. Which of them a program knows depends on the first
/// request that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingRules {
    /// The request that opens a handshake.
    pub opening: &'static str,
    /// The request to send after the handshake. It has no parameters.
    pub ping: &'static str,
    /// The path of a parameter that requests have if there is no handshake.
    pub tag: &'static [&'static str],
    /// The request to send if there is no handshake, and its parameters.
    pub untied: (&'static str, &'static str),
}

impl PingRules {
    /// The rules of the Model Context Protocol. Its version 2026-07-28 has no `ping`.
    pub(super) const MCP: Self = Self {
        opening: "initialize",
        ping: "ping",
        tag: &["_meta", "io.modelcontextprotocol/protocolVersion"],
        untied: (
            "server/discover",
            r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}"#,
        ),
    };
}
