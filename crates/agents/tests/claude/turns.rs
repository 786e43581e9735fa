//! Conversations with the real program.

use serde_json::json;
use tieline_agents::claude::{Callbacks, Cli, Error, Message, Options, Permission, Session, query};

use crate::support::within;
use crate::world::{ModelRequest, Reply, World};
use crate::{first_piece, result};

/// Replies with the user's text.
fn echo(asked: &ModelRequest) -> Reply {
    Reply::Text(format!("you said {}", asked.text()))
}

#[tokio::test]
async fn one_turn_with_the_six_methods_of_cli() {
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
async fn prompts_longer_than_an_argument_reach_the_model() {
    let world = World::new(|asked| {
        let system = asked.body()["system"].to_string();
        Reply::Text(format!(
            "{} {}",
            system.matches("[one]").count(),
            system.matches("[two]").count()
        ))
    })
    .await;
    // Each value is longer than 128 KiB, the limit of Linux for one argument.
    let options = Options {
        system_prompt: Some("[one]".repeat(40_000)),
        append_system_prompt: Some("[two]".repeat(30_000)),
        settings: Some(json!({ "env": { "LONG": "x".repeat(200_000) } }).to_string()),
        mcp_configs: vec![json!({ "mcpServers": {}, "x": "x".repeat(200_000) }).to_string()],
        ..world.options()
    };
    let mut answer = query("x".repeat(200_000), &options).await.unwrap();
    let mut text = None;
    while let Some(message) = within("the answer", answer.next()).await {
        if let Message::Result(result) = message.unwrap() {
            text = result.text().map(str::to_owned);
        }
    }
    assert_eq!(text.as_deref(), Some("40000 30000"));
}

#[tokio::test]
async fn value_too_long_for_an_argument_is_an_error_that_says_so() {
    let world = World::new(echo).await;
    let schema = json!({ "description": "secret ".repeat(30_000) });
    let options = Options { json_schema: Some(schema), ..world.options() };
    let error = Cli::connect(&options).await.unwrap_err();
    let Error::Launch(error) = error else { panic!("{error}") };
    assert!(error.hint().unwrap().contains("128 KiB"), "{error:?}");
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(text.len() < 1000 && !text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn session_has_many_turns() {
    let world = World::new(|asked| {
        Reply::Text(format!(
            "{} before, {}",
            asked.turns(),
            asked.body()["model"].as_str().unwrap()
        ))
    })
    .await;
    let (session, mut inbox) = Session::connect(&world.options()).await.unwrap();
    let description = within("the initialize", session.initialize()).await.unwrap().clone();
    assert!(description["commands"].is_array(), "{description}");
    // The second time, nothing is sent.
    assert_eq!(within("it again", session.initialize()).await.unwrap(), &description);
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

#[tokio::test]
async fn interrupt_ends_the_turn_and_not_the_session() {
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
async fn program_accepts_every_option() {
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
async fn session_is_resumed() {
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
        // The last session is a new one that continues the previous session.
        options = Options { resume: session, fork_session: turn == 1, ..options };
    }
}

#[tokio::test]
async fn result_has_the_requested_schema() {
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
