//! The real Claude CLI: conversations, what it asks of us, and how it ends.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/claude.rs"]
mod claude;
mod support;

use claude::{Asked, Reply, World};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::within;
use tieline_agents::claude::{
    Callbacks, Cli, Error, Inbox, Message, Options, Permission, Session, TurnResult, query,
};
use tieline_proto::ByteSize;
use tieline_transport::{ChannelConfig, CloseReason};
use tokio::sync::{mpsc, oneshot};

/// Says back what it was told, as far as a person wrote it.
fn echo(asked: &Asked) -> Reply {
    Reply::Text(format!("you said {}", asked.text()))
}

/// The next message for which `pick` gives something.
async fn next<T>(inbox: &mut Inbox, what: &str, mut pick: impl FnMut(Message) -> Option<T>) -> T {
    let wanted = async {
        loop {
            let message = inbox.next().await.unwrap_or_else(|| panic!("it ended before {what}"));
            if let Some(found) = pick(message.unwrap()) {
                return found;
            }
        }
    };
    within(what, wanted).await
}

async fn result(inbox: &mut Inbox) -> TurnResult {
    next(inbox, "the result", |message| match message {
        Message::Result(result) => Some(result),
        _ => None,
    })
    .await
}

/// The first piece of a text that is on its way.
async fn first_piece(inbox: &mut Inbox) -> String {
    next(inbox, "a piece of text", |message| match message {
        Message::StreamEvent(event) => event.text_delta().map(str::to_owned),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_turn_is_had_with_the_six_methods() {
    let world = World::new(echo).await;
    let cli = within("the start", Cli::connect(&world.options())).await.unwrap();
    assert!(cli.is_ready());
    let mut messages = cli.messages();
    let user = json!({
        "type": "user", "session_id": "", "parent_tool_use_id": null,
        "message": { "role": "user", "content": "hello" },
    });
    cli.write(&user).await.unwrap();
    let mut types = Vec::new();
    loop {
        let message = within("a message", messages.next()).await.unwrap().unwrap();
        types.push(message["type"].as_str().unwrap().to_owned());
        if message["type"] == "result" {
            assert!(message["result"].as_str().unwrap().contains("you said"), "{message}");
            break;
        }
    }
    assert_eq!(types, ["system", "assistant", "result"]);
    cli.end_input().await.unwrap();
    assert!(!cli.is_ready());
    assert!(within("the end", messages.next()).await.is_none());
    let end = within("the close", cli.close()).await;
    assert!(!end.is_failure() && end.reason.is_clean(), "{end}");
}

#[tokio::test]
async fn one_session_has_many_turns() {
    let world = World::new(|asked| {
        Reply::Text(format!(
            "{} before, {}",
            asked.turns(),
            asked.body()["model"].as_str().unwrap()
        ))
    })
    .await;
    let (session, mut inbox) = Session::connect(&world.options()).await.unwrap();
    let told = within("the initialize", session.initialize()).await.unwrap().clone();
    assert!(told["commands"].is_array(), "{told}");
    // The second time nothing is asked.
    assert_eq!(within("it again", session.initialize()).await.unwrap(), &told);
    session.say("one").await.unwrap();
    assert!(result(&mut inbox).await.text().unwrap().starts_with("0 before"));
    within("the model", session.set_model(Some("claude-sonnet-4-5"))).await.unwrap();
    session.say(json!([{ "type": "text", "text": "two" }])).await.unwrap();
    let second = result(&mut inbox).await;
    assert_eq!((second.text(), second.is_error()), (Some("1 before, claude-sonnet-4-5"), false));
    within("the mode", session.set_permission_mode("plan")).await.unwrap();
    let refused = within("a mode", session.set_permission_mode("no such mode")).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    let status = session.request(json!({ "subtype": "mcp_status" }));
    assert!(within("the status", status).await.unwrap()["mcpServers"].is_array());
    let end = within("the close", session.close()).await;
    assert!(end.by_us && end.reason.is_clean(), "{end}");
    assert_eq!(session.pending(), 0);
}

/// The model wants to make a file by `Bash`, and then says what came of it.
fn toucher(asked: &Asked) -> Reply {
    match asked.tool_result() {
        Some(result) => Reply::Text(result),
        None => Reply::Tool("Bash", json!({ "command": "touch made", "description": "make it" })),
    }
}

#[tokio::test]
async fn a_tool_is_used_only_if_we_allow_it() {
    for is_allowed in [false, true] {
        let world = World::new(toucher).await;
        let (tell, mut asked) = mpsc::unbounded_channel();
        let callbacks =
            Callbacks::new().can_use_tool(move |tool| {
                tell.send(tool).unwrap();
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
async fn a_tool_gets_the_input_that_we_gave_it() {
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
async fn a_hook_sees_the_tool_and_decides() {
    let world = World::new(toucher).await;
    let (tell, mut seen) = mpsc::unbounded_channel();
    let callbacks = Callbacks::new().hook("PreToolUse", Some("Bash"), move |input| {
        tell.send(input).unwrap();
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
async fn an_mcp_server_of_ours_is_called() {
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
    let mut said = None;
    while let Some(message) = within("a message", answer.next()).await {
        if let Message::Result(result) = message.unwrap() {
            said = result.text().map(str::to_owned);
        }
    }
    assert!(said.as_ref().is_some_and(|said| said.contains("forty-two")), "{said:?}");
}

#[tokio::test]
async fn an_interrupt_ends_the_turn_and_not_the_session() {
    let world = World::new(|asked| match asked.text().contains("go on and on") {
        true => Reply::Endless("on and"),
        false => Reply::Text("here".to_owned()),
    })
    .await;
    let options = Options { include_partial_messages: true, ..world.options() };
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    session.say("go on and on").await.unwrap();
    assert_eq!(first_piece(&mut inbox).await, "on and");
    within("the interrupt", session.interrupt()).await.unwrap();
    assert!(result(&mut inbox).await.is_error());
    session.say("and now?").await.unwrap();
    assert_eq!(result(&mut inbox).await.text(), Some("here"));
    within("the close", session.close()).await;
}

#[tokio::test]
async fn a_question_that_the_program_withdraws_is_dropped() {
    struct Dropped(Option<oneshot::Sender<()>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }
    let world = World::new(toucher).await;
    let (tell, mut asked) = mpsc::unbounded_channel();
    let callbacks = Callbacks::new().can_use_tool(move |_| {
        let (dropped, is_dropped) = oneshot::channel();
        tell.send(is_dropped).unwrap();
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

fn a_lot(_: &Asked) -> Reply {
    Reply::Text("x".repeat(20_000_000))
}

#[tokio::test]
async fn a_line_above_the_limit_costs_that_line() {
    let world = World::new(a_lot).await;
    let (session, mut inbox) = Session::connect(&world.options()).await.unwrap();
    session.say("a lot").await.unwrap();
    // The text comes in the message and again in the result.
    let mut faults = 0;
    while faults < 2 {
        match within("a message", inbox.next()).await.unwrap() {
            Err(Error::Fault(_)) => faults += 1,
            other => drop(other.unwrap()),
        }
    }
    assert_eq!(session.counts().faults, 2);
    let status = session.request(json!({ "subtype": "mcp_status" }));
    within("the line goes on", status).await.unwrap();
    within("the close", session.close()).await;
}

#[tokio::test]
async fn a_raised_limit_lets_it_through() {
    let world = World::new(a_lot).await;
    let channel = ChannelConfig { max_message: ByteSize::mib(64), ..ChannelConfig::default() };
    let options = Options { channel, ..world.options() };
    let mut answer = within("the start", query("a lot", &options)).await.unwrap();
    let mut length = 0;
    while let Some(message) = within("a message", answer.next()).await {
        if let Message::Assistant(said) = message.unwrap() {
            length += said.text().len();
        }
    }
    assert_eq!(length, 20_000_000);
}

#[tokio::test]
async fn a_program_that_is_killed_is_a_failure_with_its_status() {
    let world = World::new(|_| Reply::Endless("on and")).await;
    let options = Options { include_partial_messages: true, ..world.options() };
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    session.say("go on").await.unwrap();
    first_piece(&mut inbox).await;
    kill_process(Pid::from_raw(world.pid()).unwrap(), Signal::KILL).unwrap();
    let closed = within("the failure", async {
        loop {
            match inbox.next().await.expect("the failure is told") {
                Err(Error::Closed(reason)) => return reason,
                other => drop(other.unwrap()),
            }
        }
    });
    let CloseReason::ChildExited(exit) = closed.await else { panic!("no exit") };
    assert!(exit.status.to_string().contains("9"), "{exit}");
    assert!(within("the end", inbox.next()).await.is_none());
    assert!(!session.is_ready());
    let refused = within("a call", session.interrupt()).await.unwrap_err();
    assert!(matches!(refused, Error::Closed(_)), "{refused}");
    let end = within("the close", session.close()).await;
    assert!(end.is_failure() && !end.by_us, "{end}");
}

#[tokio::test]
async fn a_close_in_mid_answer_is_by_us() {
    let world = World::new(|_| Reply::Endless("on and")).await;
    let options = Options { include_partial_messages: true, ..world.options() };
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    session.say("go on").await.unwrap();
    first_piece(&mut inbox).await;
    let end = within("the close", session.close()).await;
    assert!(end.by_us && !end.is_failure(), "{end}");
    while let Some(message) = within("the rest", inbox.next()).await {
        message.unwrap();
    }
}

#[tokio::test]
async fn what_the_service_refuses_is_a_result_with_its_words() {
    let world = World::new(|_| Reply::Fails(400)).await;
    let mut answer = within("the start", query("anything", &world.options())).await.unwrap();
    let mut results = Vec::new();
    while let Some(message) = within("a message", answer.next()).await {
        match message {
            Ok(Message::Result(result)) => results.push(result),
            // After an error the program's status is 1.
            Err(Error::Closed(CloseReason::ChildExited(exit))) => {
                assert_eq!(exit.status.code(), Some(1), "{exit}");
            }
            other => drop(other.unwrap()),
        }
    }
    assert!(
        results[0].is_error() && results[0].text().unwrap().contains("it failed"),
        "{results:?}"
    );
}

#[tokio::test]
async fn the_program_takes_every_option() {
    let world = World::new(|asked| {
        let system = asked.body()["system"].to_string();
        Reply::Text(format!("{} {}", asked.body()["model"], system.contains("-- be brief")))
    })
    .await;
    let plugins = world.project().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    let options = Options {
        system_prompt: Some("-- be brief".into()),
        append_system_prompt: Some("--and honest".into()),
        tools: Some(vec!["Read".into(), "Bash".into()]),
        allowed_tools: vec!["Read".into(), "Bash(git *)".into()],
        disallowed_tools: vec!["Write".into()],
        max_turns: Some(3),
        max_budget_usd: Some(0.5),
        model: Some("claude-opus-4-5".into()),
        fallback_model: Some("claude-sonnet-4-5".into()),
        betas: vec!["context-1m-2025-08-07".into()],
        agent: Some("Explore".into()),
        agents: Some(json!({ "mine": { "description": "d", "prompt": "p" } })),
        permission_mode: Some("plan".into()),
        session_id: Some("6b1d7c0e-6a2e-4c59-9c8f-0d8f1a2b3c4d".into()),
        no_session_persistence: true,
        settings: Some("{}".into()),
        add_dirs: vec![plugins.clone()],
        mcp_configs: vec![r#"{"mcpServers":{}}"#.into()],
        strict_mcp_config: true,
        plugin_dirs: vec![plugins],
        include_partial_messages: true,
        include_hook_events: true,
        max_thinking_tokens: Some(1024),
        effort: Some("low".into()),
        json_schema: None,
        debug_file: Some(world.project().join("debug.log")),
        callbacks: Callbacks::new().can_use_tool(|_| async { Permission::allow() }),
        ..world.options()
    };
    let mut answer = within("the start", query("hello", &options)).await.unwrap();
    let mut result = None;
    while let Some(message) = within("a message", answer.next()).await {
        let message = message.unwrap();
        if let Message::Result(_) = message {
            result = Some(message);
        }
    }
    let result = result.unwrap();
    assert_eq!(result.session_id(), Some("6b1d7c0e-6a2e-4c59-9c8f-0d8f1a2b3c4d"));
    assert_eq!(result.raw()["result"], r#""claude-opus-4-5" true"#);
    assert!(world.project().join("debug.log").exists());
}

#[tokio::test]
async fn a_session_is_resumed() {
    let world = World::new(|asked| Reply::Text(format!("{} before", asked.turns()))).await;
    let mut options = world.options();
    for (turn, is_fork) in [(0, false), (1, false), (2, true)] {
        let mut answer = within("the start", query("go on", &options)).await.unwrap();
        let mut session = None;
        while let Some(message) = within("a message", answer.next()).await {
            let message = message.unwrap();
            if let Message::Result(result) = &message {
                assert_eq!(result.text(), Some(format!("{turn} before").as_str()));
                session = message.session_id().map(str::to_owned);
            }
        }
        assert!(session.is_some());
        assert_eq!(options.resume.is_some() && options.resume != session, is_fork);
        // The last is another session that begins with this one.
        options = Options { resume: session, fork_session: turn == 1, ..options };
    }
}

#[tokio::test]
async fn an_answer_has_the_shape_that_was_asked_for() {
    let world = World::new(|asked| match asked.tool_result() {
        Some(_) => Reply::Text("done".to_owned()),
        None => Reply::Tool("StructuredOutput", json!({ "sum": 5 })),
    })
    .await;
    let schema = json!({
        "type": "object", "properties": { "sum": { "type": "integer" } }, "required": ["sum"],
    });
    let options = Options { json_schema: Some(schema), ..world.options() };
    let mut answer = within("the start", query("2 and 3", &options)).await.unwrap();
    let mut output = None;
    while let Some(message) = within("a message", answer.next()).await {
        if let Message::Result(result) = message.unwrap() {
            output = result.raw().get("structured_output").cloned();
        }
    }
    assert_eq!(output, Some(json!({ "sum": 5 })));
}
