//! Requests from the program: tool permissions, hooks, and messages to MCP servers that run in this
//! process.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tieline_transport::BoxFuture;

type Callback<A, R> = Arc<dyn Fn(A) -> BoxFuture<'static, R> + Send + Sync>;

/// Wraps a callback so that all of it runs when the future is polled, including the part before the
/// first `await`.
fn callback<A, R, F>(callback: impl Fn(A) -> F + Send + Sync + 'static) -> Callback<A, R>
where
    A: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let callback = Arc::new(callback);
    Arc::new(move |argument| {
        let callback = callback.clone();
        Box::pin(async move { callback(argument).await })
    })
}

/// Callbacks that answer requests from the program. Each runs in its own task and delays neither the
/// messages nor other callbacks. A panic is reported to the program as an error. If the program cancels
/// the request, the callback is dropped at its current `await`.
#[derive(Clone, Default)]
pub struct Callbacks {
    can_use_tool: Option<Callback<ToolRequest, Permission>>,
    hooks: Vec<Hook>,
    mcp: BTreeMap<String, Callback<Value, Value>>,
}

#[derive(Clone)]
struct Hook {
    event: String,
    matcher: Option<String>,
    callback: Callback<Value, Value>,
}

/// A tool that the program wants to use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ToolRequest {
    /// The name of the tool.
    pub tool_name: String,
    /// The input for the tool.
    pub input: Value,
    /// The whole request: `tool_use_id`, `permission_suggestions`, …
    pub raw: Value,
}

/// The answer to a permission request.
#[derive(Clone, Debug)]
pub enum Permission {
    /// Allows the tool.
    Allow {
        /// The input to use; `None` for the requested input.
        updated_input: Option<Value>,
        /// Rules to remember, in the form of the request's `permission_suggestions`.
        updated_permissions: Option<Value>,
    },
    /// Denies the tool.
    Deny {
        /// The reason, which the model reads.
        message: String,
        /// Whether to end the turn as well.
        interrupt: bool,
    },
}

impl Permission {
    /// Allows the tool with the requested input.
    pub fn allow() -> Self {
        Self::Allow { updated_input: None, updated_permissions: None }
    }

    /// Denies the tool and continues the turn.
    pub fn deny(message: impl Into<String>) -> Self {
        Self::Deny { message: message.into(), interrupt: false }
    }

    fn into_value(self, input: Value) -> Value {
        match self {
            Self::Allow { updated_input, updated_permissions } => {
                let input = updated_input.unwrap_or(input);
                let mut answer = json!({ "behavior": "allow", "updatedInput": input });
                if let (Some(rules), Some(answer)) = (updated_permissions, answer.as_object_mut()) {
                    answer.insert("updatedPermissions".to_owned(), rules);
                }
                answer
            }
            Self::Deny { message, interrupt: false } => {
                json!({ "behavior": "deny", "message": message })
            }
            Self::Deny { message, interrupt: true } => {
                json!({ "behavior": "deny", "message": message, "interrupt": true })
            }
        }
    }
}

impl Callbacks {
    /// Creates an empty set of callbacks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the callback that decides about tools that are neither allowed nor denied by a rule.
    #[must_use]
    pub fn can_use_tool<F>(
        mut self,
        answer: impl Fn(ToolRequest) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Permission> + Send + 'static,
    {
        self.can_use_tool = Some(callback(answer));
        self
    }

    /// Adds a hook that is called at each `event` (`PreToolUse`, `Stop`, …), for tools that match
    /// `matcher`. It receives the hook's input and returns its output; `{}` changes nothing.
    #[must_use]
    pub fn hook<F>(
        mut self,
        event: impl Into<String>,
        matcher: Option<&str>,
        answer: impl Fn(Value) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Value> + Send + 'static,
    {
        self.hooks.push(Hook {
            event: event.into(),
            matcher: matcher.map(str::to_owned),
            callback: callback(answer),
        });
        self
    }

    /// Adds an MCP server called `name`. The callback receives each JSON-RPC message to this server and
    /// returns the response, which is ignored for notifications.
    #[must_use]
    pub fn mcp_server<F>(
        mut self,
        name: impl Into<String>,
        answer: impl Fn(Value) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Value> + Send + 'static,
    {
        self.mcp.insert(name.into(), callback(answer));
        self
    }

    /// Returns whether there are no callbacks.
    pub fn is_empty(&self) -> bool {
        self.can_use_tool.is_none() && self.hooks.is_empty() && self.mcp.is_empty()
    }

    pub(super) fn answers_permissions(&self) -> bool {
        self.can_use_tool.is_some()
    }

    /// Adds the callbacks to an `initialize` request.
    pub(super) fn describe(&self, request: &mut Map<String, Value>) {
        let mut events: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for (index, hook) in self.hooks.iter().enumerate() {
            let matcher = json!({ "matcher": hook.matcher, "hookCallbackIds": [hook_id(index)] });
            events.entry(&hook.event).or_default().push(matcher);
        }
        if !events.is_empty() {
            request.insert("hooks".to_owned(), json!(events));
        }
        if !self.mcp.is_empty() {
            request.insert("sdkMcpServers".to_owned(), self.mcp.keys().cloned().collect());
        }
    }

    /// Returns the future that answers `request`, or the reason why there is none.
    pub(super) fn answer(&self, request: Value) -> Result<BoxFuture<'static, Value>, String> {
        let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
        match text("subtype") {
            "can_use_tool" => {
                let callback = self.can_use_tool.clone();
                let callback = callback.ok_or("no callback for permissions to use tools")?;
                let input = request.get("input").cloned().unwrap_or_default();
                let tool_name = text("tool_name").to_owned();
                let asked = callback(ToolRequest { tool_name, input: input.clone(), raw: request });
                Ok(Box::pin(async move { asked.await.into_value(input) }))
            }
            "hook_callback" => {
                let id = text("callback_id");
                let mut hooks = self.hooks.iter().enumerate();
                let found = hooks.find(|(index, _)| hook_id(*index) == id);
                let (_, hook) = found.ok_or_else(|| format!("unknown hook id: {id}"))?;
                Ok((hook.callback)(request.get("input").cloned().unwrap_or_default()))
            }
            "mcp_message" => {
                let message = request.get("message").cloned().unwrap_or_default();
                let id = message.get("id").cloned();
                let answered = match self.mcp.get(text("server_name")) {
                    Some(callback) => callback(message),
                    None => {
                        let refusal = format!("unknown MCP server: {}", text("server_name"));
                        let error = json!({ "code": -32601, "message": refusal });
                        let answer = json!({ "jsonrpc": "2.0", "id": id, "error": error });
                        Box::pin(std::future::ready(answer))
                    }
                };
                Ok(Box::pin(async move {
                    let answer = answered.await;
                    // A notification has no response, but the program expects one.
                    let nothing = || json!({ "jsonrpc": "2.0", "id": 0, "result": {} });
                    json!({ "mcp_response": if id.is_some() { answer } else { nothing() } })
                }))
            }
            other => Err(format!("unsupported control request: {other}")),
        }
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hooks: Vec<_> = self.hooks.iter().map(|hook| (&hook.event, &hook.matcher)).collect();
        f.debug_struct("Callbacks")
            .field("can_use_tool", &self.can_use_tool.is_some())
            .field("hooks", &hooks)
            .field("mcp", &self.mcp.keys())
            .finish()
    }
}

fn hook_id(index: usize) -> String {
    format!("hook_{index}")
}
