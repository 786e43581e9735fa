//! What the program says, by kind. Each keeps the whole value: what has no method here is in `raw`.

use serde_json::Value;

/// One message.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// About the session: `init`, `status`, `session_state_changed`, …
    System(System),
    /// The model has spoken, or wants a tool.
    Assistant(Assistant),
    /// What was said to the model, tool results above all.
    User(User),
    /// A turn has ended.
    Result(TurnResult),
    /// A piece of what the model is saying
    /// ([`Options::include_partial_messages`](super::Options::include_partial_messages)).
    StreamEvent(StreamEvent),
    /// Anything else.
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

    /// The whole of it.
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

    /// The session that it belongs to.
    pub fn session_id(&self) -> Option<&str> {
        self.raw().get("session_id")?.as_str()
    }

    /// The tool use of the subagent that it comes from; `None` for the conversation itself.
    pub fn parent_tool_use_id(&self) -> Option<&str> {
        self.raw().get("parent_tool_use_id")?.as_str()
    }
}

/// About the session.
#[derive(Clone, Debug, PartialEq)]
pub struct System(Value);

impl System {
    /// What about it.
    pub fn subtype(&self) -> &str {
        text(&self.0, "subtype")
    }

    /// Whether the session has begun to wait for us: no turn, no background agent is at work
    /// ([`Options::session_state_events`](super::Options::session_state_events)).
    pub fn is_idle(&self) -> bool {
        self.subtype() == "session_state_changed" && text(&self.0, "state") == "idle"
    }

    /// The whole of it.
    pub fn raw(&self) -> &Value {
        &self.0
    }
}

/// The model has spoken, or wants a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Assistant(Value);

impl Assistant {
    /// Its parts.
    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        blocks(&self.0)
    }

    /// All its text.
    pub fn text(&self) -> String {
        let texts = self.blocks().filter_map(|block| match block {
            Block::Text(text) => Some(text),
            _ => None,
        });
        texts.collect()
    }

    /// The model.
    pub fn model(&self) -> Option<&str> {
        self.0.get("message")?.get("model")?.as_str()
    }

    /// The whole of it.
    pub fn raw(&self) -> &Value {
        &self.0
    }
}

/// What was said to the model.
#[derive(Clone, Debug, PartialEq)]
pub struct User(Value);

impl User {
    /// Its parts; a plain text is one.
    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        blocks(&self.0)
    }

    /// The whole of it.
    pub fn raw(&self) -> &Value {
        &self.0
    }
}

/// A turn has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnResult(Value);

impl TurnResult {
    /// `success`, or what went wrong: `error_max_turns`, `error_during_execution`, …
    pub fn subtype(&self) -> &str {
        text(&self.0, "subtype")
    }

    /// Whether it went wrong.
    pub fn is_error(&self) -> bool {
        self.0.get("is_error").and_then(Value::as_bool).unwrap_or(self.subtype() != "success")
    }

    /// The last text, or the words of the error.
    pub fn text(&self) -> Option<&str> {
        self.0.get("result").or_else(|| self.0.get("errors")?.get(0))?.as_str()
    }

    /// What it has cost, in dollars.
    pub fn cost_usd(&self) -> Option<f64> {
        self.0.get("total_cost_usd")?.as_f64()
    }

    /// The whole of it: `usage`, `permission_denials`, `structured_output`, …
    pub fn raw(&self) -> &Value {
        &self.0
    }
}

/// A piece of what the model is saying.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEvent(Value);

impl StreamEvent {
    /// An event of the Messages API's stream.
    pub fn event(&self) -> &Value {
        self.0.get("event").unwrap_or(&Value::Null)
    }

    /// The piece of text that it is, if it is one.
    pub fn text_delta(&self) -> Option<&str> {
        let delta = self.event().get("delta")?;
        (text(delta, "type") == "text_delta").then(|| text(delta, "text"))
    }

    /// The whole of it.
    pub fn raw(&self) -> &Value {
        &self.0
    }
}

/// A part of what was said.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Block<'a> {
    /// Text.
    Text(&'a str),
    /// What the model thinks.
    Thinking(&'a str),
    /// The model wants a tool.
    ToolUse {
        /// The id that the result will have.
        id: &'a str,
        /// The tool.
        name: &'a str,
        /// What for.
        input: &'a Value,
    },
    /// A tool has done it, or not.
    ToolResult {
        /// The id of the use.
        id: &'a str,
        /// What came of it: a text, or blocks.
        content: &'a Value,
        /// It went wrong.
        is_error: bool,
    },
    /// Anything else.
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
    fn each_kind_is_known_and_keeps_what_is_not() {
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
    fn what_was_said_is_taken_apart() {
        let input = json!({ "command": "ls" });
        let Message::Assistant(said) = Message::of(json!({ "type": "assistant", "message": {
            "model": "m",
            "content": [
                { "type": "text", "text": "a" },
                { "type": "tool_use", "id": "t", "name": "Bash", "input": input },
                { "type": "new" },
                { "type": "text", "text": "b" },
            ],
        } })) else {
            panic!("not the assistant");
        };
        assert_eq!((said.text().as_str(), said.model()), ("ab", Some("m")));
        let new = json!({ "type": "new" });
        let tool = Block::ToolUse { id: "t", name: "Bash", input: &input };
        let expected = [Block::Text("a"), tool, Block::Other(&new), Block::Text("b")];
        assert_eq!(said.blocks().collect::<Vec<_>>(), expected);
        let plain = json!({ "type": "user", "message": { "content": "hello" } });
        let Message::User(user) = Message::of(plain) else { panic!("not the user") };
        assert_eq!(user.blocks().collect::<Vec<_>>(), [Block::Text("hello")]);
    }

    #[test]
    fn the_words_of_an_error_are_found_where_they_are() {
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
    fn a_result_is_an_error_if_it_says_so() {
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
