//! The real program sends requests: for permissions, hooks, and an MCP server.

use serde_json::{Value, json};
use tieline_agents::claude::{Callbacks, Message, Options, Permission, Session, query};
use tokio::sync::{mpsc, oneshot};

use crate::result;
use crate::support::within;
use crate::world::{ModelRequest, Reply, World};

/// Replies as a model that creates a file with `Bash`, and then repeats the tool's result.
fn toucher(asked: &ModelRequest) -> Reply {
    match asked.tool_result() {
        Some(result) => Reply::Text(result),
        None => Reply::Tool("Bash", json!({ "command": "touch made", "description": "make it" })),
    }
}

#[tokio::test]
async fn tool_is_used_only_if_allowed() {
    for is_allowed in [false, true] {
        let world = World::new(toucher).await;
        let (report, mut asked) = mpsc::unbounded_channel();
        let callbacks =
            Callbacks::new().can_use_tool(move |tool| {
                report.send(tool).unwrap();
                async move {
                    if is_allowed { Permission::allow() } else { Permission::deny("not today") }
                }
            });
        let options = Options { callbacks, ..world.options() };
        let (session, mut inbox) = Session::connect(&options).await.unwrap();
        within("the initialize", session.initialize()).await.unwrap();
        session.say("make it").await.unwrap();
        let result = result(&mut inbox).await;
        let tool = asked.try_recv().unwrap();
        assert_eq!(
            (tool.tool_name.as_str(), &tool.input["command"]),
            ("Bash", &json!("touch made"))
        );
        assert_eq!(world.project().join("made").exists(), is_allowed);
        assert_eq!(result.text().unwrap().contains("not today"), !is_allowed, "{result:?}");
        within("the close", session.close()).await;
    }
}

#[tokio::test]
async fn tool_gets_the_input_from_the_callback() {
    let world = World::new(toucher).await;
    let callbacks = Callbacks::new().can_use_tool(|tool| async move {
        let mut input = tool.input;
        input["command"] = json!("touch other");
        Permission::Allow { updated_input: Some(input), updated_permissions: None }
    });
    let options = Options { callbacks, ..world.options() };
    let mut answer = within("the start", query("make it", &options)).await.unwrap();
    while let Some(message) = within("a message", answer.next()).await {
        message.unwrap();
    }
    assert!(world.project().join("other").exists() && !world.project().join("made").exists());
}

#[tokio::test]
async fn hook_sees_the_tool_and_decides() {
    let world = World::new(toucher).await;
    let (report, mut seen) = mpsc::unbounded_channel();
    let callbacks = Callbacks::new().hook("PreToolUse", Some("Bash"), move |input| {
        report.send(input).unwrap();
        let decision = json!({
            "hookEventName": "PreToolUse", "permissionDecision": "allow",
        });
        async move { json!({ "hookSpecificOutput": decision }) }
    });
    let options = Options { callbacks, ..world.options() };
    let mut answer = within("the start", query("make it", &options)).await.unwrap();
    let mut results = 0;
    while let Some(message) = within("a message", answer.next()).await {
        results += usize::from(matches!(message.unwrap(), Message::Result(_)));
    }
    assert_eq!(results, 1);
    assert_eq!(seen.try_recv().unwrap()["tool_input"]["command"], "touch made");
    assert!(world.project().join("made").exists());
}

#[tokio::test]
async fn mcp_server_in_this_process_is_called() {
    let world = World::new(|asked| match asked.tool_result() {
        Some(result) => Reply::Text(result),
        None => Reply::Tool("mcp__kit__answer", json!({})),
    })
    .await;
    let callbacks = Callbacks::new().mcp_server("kit", |message: Value| async move {
        let result = match message["method"].as_str().unwrap_or_default() {
            "initialize" => json!({
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": { "tools": {} },
                "serverInfo": { "name": "kit", "version": "1" },
            }),
            "tools/list" => json!({ "tools": [
                { "name": "answer", "description": "d", "inputSchema": { "type": "object" } },
            ] }),
            "tools/call" => json!({ "content": [{ "type": "text", "text": "forty-two" }] }),
            _ => json!({}),
        };
        json!({ "jsonrpc": "2.0", "id": message["id"], "result": result })
    });
    let allowed_tools = vec!["mcp__kit__answer".to_owned()];
    let options = Options { callbacks, allowed_tools, ..world.options() };
    let mut answer = within("the start", query("ask it", &options)).await.unwrap();
    let mut text = None;
    while let Some(message) = within("a message", answer.next()).await {
        if let Message::Result(result) = message.unwrap() {
            text = result.text().map(str::to_owned);
        }
    }
    assert!(text.as_ref().is_some_and(|text| text.contains("forty-two")), "{text:?}");
}

#[tokio::test]
async fn request_cancelled_by_the_program_is_dropped() {
    struct Dropped(Option<oneshot::Sender<()>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }
    let world = World::new(toucher).await;
    let (report, mut asked) = mpsc::unbounded_channel();
    let callbacks = Callbacks::new().can_use_tool(move |_| {
        let (dropped, is_dropped) = oneshot::channel();
        report.send(is_dropped).unwrap();
        let held = Dropped(Some(dropped));
        async move {
            let _held = held;
            std::future::pending().await
        }
    });
    let options = Options { callbacks, ..world.options() };
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    within("the initialize", session.initialize()).await.unwrap();
    session.say("make it").await.unwrap();
    let is_dropped = within("the question", asked.recv()).await.unwrap();
    within("the interrupt", session.interrupt()).await.unwrap();
    within("the withdrawal", is_dropped).await.unwrap();
    result(&mut inbox).await;
    within("the close", session.close()).await;
}
