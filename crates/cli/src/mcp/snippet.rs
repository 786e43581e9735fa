//! Text that users paste into the configuration of an MCP client.

use tieline_proto::json::escape;

use crate::names::Name;
use crate::shell::quote;

/// Returns the start-up text for MCP clients of the server at `url`. `token` is the token that the
/// client has to send, if any.
pub(crate) fn snippet(name: &Name, url: &str, token: Option<&str>) -> String {
    let header = token.map(|token| format!("Authorization: Bearer {token}"));
    let argument = header.map_or_else(String::new, |it| format!(" --header {}", quote(&it)));
    let (json_url, headers) = (escape(url), token.map_or_else(String::new, json_headers));
    let quoted = quote(url);
    format!(
        "  MCP clients: {url}\n    \
         Claude Code: claude mcp add --transport http {name} {quoted}{argument}\n    \
         VS Code, .vscode/mcp.json: \
         {{\"servers\":{{\"{name}\":{{\"type\":\"http\",\"url\":\"{json_url}\"{headers}}}}}}}\n    \
         other clients: \
         {{\"mcpServers\":{{\"{name}\":{{\"type\":\"http\",\"url\":\"{json_url}\"{headers}}}}}}}\n"
    )
}

fn json_headers(token: &str) -> String {
    format!(",\"headers\":{{\"Authorization\":\"Bearer {}\"}}", escape(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snippets_have_url_and_token() {
        let url = "http://127.0.0.1:8080/mcp";
        let text = snippet(&Name::new("npx").unwrap(), url, Some("secret"));
        let text = text.replace(&quote("Authorization: Bearer secret"), "QUOTED");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "  MCP clients: http://127.0.0.1:8080/mcp",
                "    Claude Code: claude mcp add --transport http npx http://127.0.0.1:8080/mcp \
                 --header QUOTED",
                "    VS Code, .vscode/mcp.json: {\"servers\":{\"npx\":{\"type\":\"http\",\"url\":\
                 \"http://127.0.0.1:8080/mcp\",\"headers\":{\"Authorization\":\"Bearer secret\"}}}}",
                "    other clients: {\"mcpServers\":{\"npx\":{\"type\":\"http\",\"url\":\
                 \"http://127.0.0.1:8080/mcp\",\"headers\":{\"Authorization\":\"Bearer secret\"}}}}",
            ]
        );
        let open = snippet(&Name::new("ab").unwrap(), url, None);
        assert!(
            open.contains("{\"ab\":{\"type\":\"http\",\"url\":\"http://127.0.0.1:8080/mcp\"}}"),
            "{open}"
        );
        assert!(!open.contains("Bearer"), "{open}");
    }
}
