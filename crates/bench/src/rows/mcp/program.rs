//! A compiled MCP server on stdin and stdout that answers each request at once.

use std::io::{self, BufRead, Write};

use serde_json::{Value, json};

use crate::compare::Result;

/// Serves until the end of the input. Responses to requests that were read together are written
/// together.
pub(crate) fn serve() -> Result<()> {
    let mut input = io::BufReader::with_capacity(64 * 1024, io::stdin().lock());
    let mut output = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let mut line = Vec::new();
    loop {
        if input.buffer().is_empty() {
            output.flush()?;
        }
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(output.flush()?);
        }
        let request: Value = serde_json::from_slice(&line)?;
        if let Some(response) = response(&request) {
            serde_json::to_writer(&mut output, &response)?;
            output.write_all(b"\n")?;
        }
    }
}

/// Returns the response to a request, and `None` for a notification.
fn response(request: &Value) -> Option<Value> {
    let id = request.get("id")?;
    let params = request.get("params");
    let result = match request.get("method")?.as_str()? {
        "initialize" => json!({
            "protocolVersion": params.and_then(|it| it.get("protocolVersion")),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "answers-at-once", "version": "1"},
        }),
        "ping" => json!({}),
        "tools/list" => json!({"tools": [{
            "name": "echo",
            "inputSchema": {"type": "object", "properties": {"message": {"type": "string"}}},
        }]}),
        "tools/call" => {
            let message = params.and_then(|it| it.pointer("/arguments/message"));
            json!({"content": [{"type": "text", "text": message}]})
        }
        _ => {
            let error = json!({"code": -32601, "message": "Method not found"});
            return Some(json!({"jsonrpc": "2.0", "id": id, "error": error}));
        }
    };
    Some(json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_and_notifications_are_not() {
        for (request, expected) in [
            (
                json!({"id": "a", "method": "tools/call", "params": {"arguments": {"message": "x"}}}),
                json!({"jsonrpc": "2.0", "id": "a", "result": {"content": [{"type": "text", "text": "x"}]}}),
            ),
            (json!({"id": 1, "method": "ping"}), json!({"jsonrpc": "2.0", "id": 1, "result": {}})),
        ] {
            assert_eq!(response(&request), Some(expected), "{request}");
        }
        assert_eq!(response(&json!({"method": "notifications/initialized"})), None);
    }
}
