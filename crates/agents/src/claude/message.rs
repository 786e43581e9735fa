//! Messages from the program, by kind. Each message keeps the whole value, including the members that
//! have no method here.

use serde_json::Value;

/// A message from the program.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// A message about the session: `init`, `status`, `session_state_changed`, …
    System(System),
    /// Output of the model: text or tool uses.
    Assistant(Assistant),
    /// Input to the model, mostly tool results.
    User(User),
    /// The end of a turn.
    Result(TurnResult),
    /// A part of the model's output, sent as soon as it is generated
    /// ([`Options::include_partial_messages`](super::Options::include_partial_messages)).
    StreamEvent(StreamEvent),
    /// Any other message.
    Other(Value),
}

impl Message {
    pub(super) fn of(raw: Value) -> Self {
        match text(&raw, "type") {
            "system" => Self::System(System(raw)),
            "assistant" => Self::Assistant(Assistant(raw)),
            "user" => Self::User(User(raw)),
            "result" => Self::Result(TurnResult(raw)),
            "stream_event" => Self::StreamEvent(StreamEvent(raw)),
            _ => Self::Other(raw),
        }
    }

    /// Returns the whole value.
    pub fn raw(&self) -> &Value {
        match self {
            Self::System(System(raw))
            | Self::Assistant(Assistant(raw))
            | Self::User(User(raw))
            | Self::Result(TurnResult(raw))
            | Self::StreamEvent(StreamEvent(raw))
            | Self::Other(raw) => raw,
        }
    }

    /// Returns the id of the message's session.
    pub fn session_id(&self) -> Option<&str> {
        self.raw().get("session_id")?.as_str()
    }

    /// Returns the id of the tool use whose subagent sent the message, or `None` in the main
    /// conversation.
    pub fn parent_tool_use_id(&self) -> Option<&str> {
        self.raw().get("parent_tool_use_id")?.as_str()
    }
}

/// A message about the session.
#[derive(Clone, Debug, PartialEq)]
pub struct System(Value);

impl System {
    /// Returns the kind of message.
    pub fn subtype(&self) -> &str {
        text(&self.0, "subtype")
    }

    /// Returns whether the session has become idle: no turn or background agent is running
    /// ([`Options::session_state_events`](super::Options::session_state_events)).
    pub fn is_idle(&self) -> bool {
        self.subtype() == "session_state_changed" && text(&self.0, "state") == "idle"
    }

    /// Returns the whole value.
    pub fn raw(&self) -> &Value {
        &self.0
    }
}

/// Output of the model: text or tool uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Assistant(Value);

impl Assistant {
    /// Returns the content blocks of the message.
    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        blocks(&self.0)
    }

    /// Returns all text of the message.
    pub fn text(&self) -> String {
        let texts = self.blocks().filter_map(|block| match block {
            Block::Text(text) => Some(text),
            _ => None,
        });
        texts.collect()
    }

    /// Returns the name of the model.
    pub fn model(&self) -> Option<&str> {
        self.0.get("message")?.get("model")?.as_str()
    }

    /// Returns the whole value.
    pub fn raw(&self) -> &Value {
        &self.0
    }
}

/// Input to the model, mostly tool results.
#[derive(Clone, Debug, PartialEq)]
pub struct User(Value);

impl User {
    /// Returns the content blocks of the message. Plain text is one block.
    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        blocks(&self.0)
    }

    /// Returns the whole value.
    pub fn raw(&self) -> &Value {
        &self.0
    }
}

/// The end of a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnResult(Value);

impl TurnResult {
    /// Returns `success` or the kind of error: `error_max_turns`, `error_during_execution`, …
    pub fn subtype(&self) -> &str {
        text(&self.0, "subtype")
    }

    /// Returns whether the turn failed.
    pub fn is_error(&self) -> bool {
        self.0.get("is_error").and_then(Value::as_bool).unwrap_or(self.subtype() != "success")
    }

    /// Returns the final text, or the error message.
    pub fn text(&self) -> Option<&str> {
        self.0.get("result").or_else(|| self.0.get("errors")?.get(0))?.as_str()
    }

    /// Returns the cost in US dollars.
    pub fn cost_usd(&self) -> Option<f64> {
        self.0.get("total_cost_usd")?.as_f64()
    }

    /// Returns the whole value: `usage`, `permission_denials`, `structured_output`, …
    pub fn raw(&self) -> &Value {
        &self.0
    }
}

/// A part of the model's output, sent as soon as it is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEvent(Value);

impl StreamEvent {
    /// Returns the event from the stream of the Messages API.
    pub fn event(&self) -> &Value {
        self.0.get("event").unwrap_or(&Value::Null)
    }

    /// Returns the text, if the event adds text.
    pub fn text_delta(&self) -> Option<&str> {
        let delta = self.event().get("delta")?;
        (text(delta, "type") == "text_delta").then(|| text(delta, "text"))
    }

    /// Returns the whole value.
    pub fn raw(&self) -> &Value {
        &self.0
    }
}

/// A content block of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Block<'a> {
    /// Text.
    Text(&'a str),
    /// The model's reasoning.
    Thinking(&'a str),
    /// A tool that the model wants to use.
    ToolUse {
        /// The id that the result refers to.
        id: &'a str,
        /// The name of the tool.
        name: &'a str,
        /// The input for the tool.
        input: &'a Value,
    },
    /// The result of a tool.
    ToolResult {
        /// The id of the tool use.
        id: &'a str,
        /// The result: a string, or an array of blocks.
        content: &'a Value,
        /// Whether the tool failed.
        is_error: bool,
    },
    /// Any other block.
    Other(&'a Value),
}

fn blocks(raw: &Value) -> impl Iterator<Item = Block<'_>> {
    let content = raw.get("message").and_then(|message| message.get("content"));
    let text = content.and_then(Value::as_str).map(Block::Text);
    let blocks = content.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    text.into_iter().chain(blocks.iter().map(block))
}

fn block(raw: &Value) -> Block<'_> {
    let value = |name: &str| raw.get(name).unwrap_or(&Value::Null);
    match text(raw, "type") {
        "text" => Block::Text(text(raw, "text")),
        "thinking" => Block::Thinking(text(raw, "thinking")),
        "tool_use" => {
            Block::ToolUse { id: text(raw, "id"), name: text(raw, "name"), input: value("input") }
        }
        "tool_result" => Block::ToolResult {
            id: text(raw, "tool_use_id"),
            content: value("content"),
            is_error: value("is_error").as_bool().unwrap_or(false),
        },
        _ => Block::Other(raw),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn known_kinds_are_recognized_and_unknown_members_are_kept() {
        for (kind, name) in [
            ("system", "System"),
            ("assistant", "Assistant"),
            ("user", "User"),
            ("result", "Result"),
            ("stream_event", "StreamEvent"),
            ("rate_limit_event", "Other"),
        ] {
            let raw = json!({ "type": kind, "session_id": "s", "new": { "field": 1 } });
            let message = Message::of(raw.clone());
            assert!(format!("{message:?}").starts_with(name), "{message:?}");
            assert_eq!((message.raw(), message.session_id()), (&raw, Some("s")));
            assert_eq!(message.parent_tool_use_id(), None);
        }
        assert_eq!(Message::of(json!(7)), Message::Other(json!(7)));
    }

    #[test]
    fn content_blocks_are_parsed() {
        let input = json!({ "command": "ls" });
        let Message::Assistant(assistant) = Message::of(json!({ "type": "assistant", "message": {
            "model": "m",
            "content": [
                { "type": "text", "text": "a" },
                { "type": "tool_use", "id": "t", "name": "Bash", "input": input },
                { "type": "new" },
                { "type": "text", "text": "b" },
            ],
        } })) else {
            panic!("expected an assistant message");
        };
        assert_eq!((assistant.text().as_str(), assistant.model()), ("ab", Some("m")));
        let new = json!({ "type": "new" });
        let tool = Block::ToolUse { id: "t", name: "Bash", input: &input };
        let expected = [Block::Text("a"), tool, Block::Other(&new), Block::Text("b")];
        assert_eq!(assistant.blocks().collect::<Vec<_>>(), expected);
        let plain = json!({ "type": "user", "message": { "content": "hello" } });
        let Message::User(user) = Message::of(plain) else { panic!("expected a user message") };
        assert_eq!(user.blocks().collect::<Vec<_>>(), [Block::Text("hello")]);
    }

    #[test]
    fn error_text_is_found_in_each_member_that_may_contain_it() {
        for (raw, words) in [
            (json!({ "result": "done" }), Some("done")),
            (
                json!({ "subtype": "error_x", "errors": ["no such session", "x"] }),
                Some("no such session"),
            ),
            (json!({ "subtype": "error_x", "errors": [] }), None),
            (json!({ "subtype": "error_x", "errors": 7 }), None),
        ] {
            assert_eq!(TurnResult(raw.clone()).text(), words, "{raw}");
        }
    }

    #[test]
    fn result_is_an_error_according_to_its_flag_or_its_subtype() {
        for (raw, is_error) in [
            (json!({ "subtype": "success", "is_error": false }), false),
            (json!({ "subtype": "success", "is_error": true, "result": "no" }), true),
            (json!({ "subtype": "error_max_turns" }), true),
            (json!({ "subtype": "success" }), false),
        ] {
            assert_eq!(TurnResult(raw.clone()).is_error(), is_error, "{raw}");
        }
    }
}
