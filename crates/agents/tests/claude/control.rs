//! The control protocol, with programs that break its rules or are old.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tieline_agents::claude::{Callbacks, Error, Message, Options, Permission, Session, query};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::scripted::{reported, scripted};
use crate::support::within;

#[tokio::test]
async fn duplicate_response_is_counted() {
    let (_directory, options) = scripted(
        r#"read_line; answer "$id" 1; answer "$id" 2; answer unknown 3; read_line; answer "$id" 4; report_all"#,
    );
    let (session, _inbox) = Session::connect(&options).await.unwrap();
    for expected in [1, 4] {
        let answer = within("an answer", session.request(json!({ "subtype": "any" }))).await;
        assert_eq!(answer.unwrap(), json!({ "ok": expected }));
    }
    assert_eq!((session.counts().unclaimed, session.pending()), (2, 0));
}

#[tokio::test]
async fn late_response_is_counted_and_initialize_has_more_time() {
    // The third line is the cancellation of the second.
    let (_directory, options) = scripted(
        r#"read_line; init=$id; read_line; report; late=$id; read_line; report
        answer "$late" 1; answer "$init" 2; report_all"#,
    );
    let options = Options { request_timeout: Duration::from_millis(300), ..options };
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    let slow = session.request(json!({ "subtype": "slow" }));
    let (initialized, error) =
        within("both", async { tokio::join!(session.initialize(), slow) }).await;
    assert!(matches!(error, Err(Error::TimedOut { request, .. }) if request == "slow"));
    assert_eq!(initialized.unwrap(), &json!({ "ok": 2 }));
    let (asked, withdrawn) = (reported(&mut inbox).await, reported(&mut inbox).await);
    assert_eq!(withdrawn["type"], "control_cancel_request");
    assert_eq!(withdrawn["request_id"], asked["request_id"]);
    assert_eq!((session.counts().unclaimed, session.pending()), (1, 0));
}

#[tokio::test]
async fn dropped_call_is_cancelled() {
    let (_directory, options) = scripted("report_all");
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    let asking = session.clone();
    let call = tokio::spawn(async move { asking.request(json!({ "subtype": "any" })).await });
    let asked = reported(&mut inbox).await;
    assert_eq!(session.pending(), 1);
    call.abort();
    let withdrawn = reported(&mut inbox).await;
    assert_eq!(withdrawn["type"], "control_cancel_request");
    assert_eq!(withdrawn["request_id"], asked["request_id"]);
    assert_eq!(session.pending(), 0);
}

#[tokio::test]
async fn pending_calls_fail_at_the_end_of_the_line() {
    let (_directory, options) = scripted("read_line; exit 7");
    let (session, _inbox) = Session::connect(&options).await.unwrap();
    let error = within("an answer", session.request(json!({ "subtype": "any" }))).await;
    assert!(matches!(&error, Err(Error::Closed(reason)) if reason.to_string().contains('7')));
    assert_eq!(session.pending(), 0);
}

#[tokio::test]
async fn initialize_is_sent_once_and_again_only_if_it_failed() {
    let (_directory, options) = scripted(
        r#"read_line; report
        write_line "{\"type\":\"control_response\",\"response\":{\"subtype\":\"error\",\"request_id\":\"$id\",\"error\":\"not yet\"}}"
        read_line; report; answer "$id" 1; report_all"#,
    );
    let agents = json!({ "mine": {} });
    let callbacks = Callbacks::new().hook("Stop", None, |_| async { json!({}) });
    let options = Options { agents: Some(agents.clone()), callbacks, ..options };
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    let first = within("an answer", session.initialize()).await;
    assert!(matches!(first, Err(Error::Refused { message, .. }) if message == "not yet"));
    let (one, two) = tokio::join!(session.initialize(), session.initialize());
    assert_eq!((one.unwrap(), two.unwrap()), (&json!({ "ok": 1 }), &json!({ "ok": 1 })));
    for _ in 0..2 {
        let request = &reported(&mut inbox).await["request"];
        assert_eq!(request["agents"], agents);
        let hook = json!([{ "matcher": null, "hookCallbackIds": ["hook_0"] }]);
        assert_eq!(request["hooks"], json!({ "Stop": hook }));
    }
    // The next message is not a third request.
    session.say("hello").await.unwrap();
    assert_eq!(reported(&mut inbox).await["type"], "user");
}

const ASK: &str = r#"{"subtype":"can_use_tool","tool_name":"T","input":{"a":1}}"#;

#[tokio::test]
async fn cancelled_request_gets_no_response_and_delays_nothing() {
    struct Dropped(Option<oneshot::Sender<()>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.take().map(|dropped| dropped.send(()));
        }
    }
    let wait = ASK.replace('T', "Wait");
    let (_directory, options) = scripted(&format!(
        "ask a '{wait}'; read_line; write_line '{{\"type\":\"keep_alive\"}}'; cancel a; cancel unknown
        ask b '{ASK}'; report_all"
    ));
    let (report, mut dropped) = mpsc::unbounded_channel();
    let callbacks = Callbacks::new().can_use_tool(move |tool| {
        let (drop, is_dropped) = oneshot::channel();
        let held = (tool.tool_name == "Wait").then(|| Dropped(Some(drop)));
        if held.is_some() {
            report.send(is_dropped).unwrap();
        }
        async move {
            match held {
                Some(_held) => std::future::pending().await,
                None => Permission::Deny { message: "no".into(), interrupt: true },
            }
        }
    });
    let options = Options { callbacks, ..options };
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    let is_dropped = within("the question", dropped.recv()).await.unwrap();
    session.say("withdraw it").await.unwrap();
    let answer = json!({ "behavior": "deny", "message": "no", "interrupt": true });
    let response = json!({ "subtype": "success", "request_id": "b", "response": answer });
    let expected = json!({ "type": "control_response", "response": response });
    assert_eq!(reported(&mut inbox).await, expected);
    within("its end", is_dropped).await.unwrap();
    assert_eq!(session.counts().lost, 0);
}

#[tokio::test]
async fn duplicate_request_is_answered_once() {
    let (_directory, options) = scripted(&format!("ask a '{ASK}'; ask a '{ASK}'; report_all"));
    let (report, mut asked) = mpsc::unbounded_channel();
    let callbacks = Callbacks::new().can_use_tool(move |_| {
        let (answer, answered) = oneshot::channel();
        report.send(answer).unwrap();
        async move { answered.await.unwrap() }
    });
    let options = Options { callbacks, ..options };
    let (session, mut inbox) = Session::connect(&options).await.unwrap();
    // The program reports this message after it has sent both requests, so both have arrived when the
    // report arrives.
    let answer = within("the question", asked.recv()).await.unwrap();
    session.say("both?").await.unwrap();
    assert_eq!(reported(&mut inbox).await["type"], "user");
    answer.send(Permission::allow()).unwrap();
    let response = reported(&mut inbox).await["response"].take();
    assert_eq!(response["response"], json!({ "behavior": "allow", "updatedInput": { "a": 1 } }));
    assert!(asked.try_recv().is_err());
    assert_eq!(session.counts().lost, 1);
}

#[tokio::test]
async fn request_without_a_callback_is_refused_with_a_reason() {
    let (_directory, options) = scripted(&format!(
        r#"ask tool '{ASK}'; read_line; report
        ask hook '{{"subtype":"hook_callback","callback_id":"hook_9","input":{{}}}}'; read_line; report
        ask new '{{"subtype":"brand_new"}}'; read_line; report
        ask odd '"not an object"'; read_line; report
        ask mcp '{{"subtype":"mcp_message","server_name":"s","message":{{"jsonrpc":"2.0","id":5,"method":"m"}}}}'
        report_all"#
    ));
    let (_session, mut inbox) = Session::connect(&options).await.unwrap();
    for (id, words) in [("tool", "tools"), ("hook", "hook_9"), ("new", "brand_new"), ("odd", "")] {
        let response = reported(&mut inbox).await["response"].take();
        assert_eq!((&response["subtype"], &response["request_id"]), (&json!("error"), &json!(id)));
        assert!(response["error"].as_str().unwrap().contains(words), "{response}");
    }
    // For an MCP client, a refusal is a JSON-RPC error.
    let response = reported(&mut inbox).await["response"].take();
    assert_eq!(response["subtype"], "success");
    let answer = &response["response"]["mcp_response"];
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(5), &json!(-32601)));
}

#[tokio::test]
async fn panicking_callback_is_an_error_and_affects_nothing_else() {
    let (_directory, options) =
        scripted(&format!("ask a '{ASK}'; read_line; report; ask b '{ASK}'; report_all"));
    let callbacks = Callbacks::new().can_use_tool(|tool| async move {
        assert!(tool.raw["tool_name"] != "T", "on purpose");
        Permission::allow()
    });
    let options = Options { callbacks, ..options };
    let (_session, mut inbox) = Session::connect(&options).await.unwrap();
    for id in ["a", "b"] {
        let response = reported(&mut inbox).await["response"].take();
        assert_eq!((&response["subtype"], &response["request_id"]), (&json!("error"), &json!(id)));
    }
}

#[tokio::test]
async fn callback_that_panics_before_its_first_await_is_an_error() {
    fn fails<T>(value: &serde_json::Value) -> std::future::Ready<T> {
        panic!("on purpose: {value}")
    }
    let hook = r#"{"subtype":"hook_callback","callback_id":"hook_0","input":{}}"#;
    let mcp = r#"{"subtype":"mcp_message","server_name":"s","message":{"id":1}}"#;
    let (_directory, options) = scripted(&format!(
        "for it in '{ASK}' '{hook}' '{mcp}'; do ask a \"$it\"; read_line; report; done; report_all"
    ));
    let callbacks = Callbacks::new().can_use_tool(|tool| fails(&tool.raw));
    let callbacks = callbacks.hook("Stop", None, |it| fails(&it)).mcp_server("s", |it| fails(&it));
    let options = Options { callbacks, ..options };
    let (_session, mut inbox) = Session::connect(&options).await.unwrap();
    for _ in 0..3 {
        let response = reported(&mut inbox).await["response"].take();
        assert_eq!((&response["subtype"], &response["request_id"]), (&json!("error"), &json!("a")));
    }
}

/// Runs a query against a script that exits by itself. The script's permission request is answered once
/// the script has sent `later`. Returns the number of results.
async fn results_of(script: &str) -> usize {
    let (_directory, options) = scripted(script);
    let later = Arc::new(Notify::new());
    let has_sent_later = later.clone();
    let callbacks = Callbacks::new().can_use_tool(move |_| {
        let later = has_sent_later.clone();
        async move {
            later.notified().await;
            Permission::allow()
        }
    });
    let options = Options { callbacks, ..options };
    let mut answer = within("the start", query("hello", &options)).await.unwrap();
    let mut results = 0;
    while let Some(message) = within("a message", answer.next()).await {
        match message.unwrap() {
            Message::Result(_) => results += 1,
            Message::Other(raw) if raw["type"] == "later" => later.notify_one(),
            _ => {}
        }
    }
    results
}

#[tokio::test]
async fn query_stays_open_until_the_session_is_idle() {
    // The program sends a request after the first result, and fails unless the request is answered and
    // nothing else is sent.
    let state = |state| {
        format!(
            r#"write_line '{{"type":"system","subtype":"session_state_changed","state":"{state}"}}'"#
        )
    };
    let result =
        r#"write_line '{"type":"result","subtype":"success","is_error":false,"result":"x"}'"#;
    let script = format!(
        r#"read_line; answer "$id" 1; read_line; {}; {result}; ask a '{ASK}'; write_line '{{"type":"later"}}'
        IFS= read -r line || exit 5; case $line in *control_response*) ;; *) exit 6;; esac
        {result}; {}; IFS= read -r line && exit 7; exit 0"#,
        state("running"),
        state("idle"),
    );
    assert_eq!(results_of(&script).await, 2);
}

#[tokio::test]
async fn query_of_an_older_program_ends_with_its_result() {
    let script = r#"read_line; answer "$id" 1; read_line
        write_line '{"type":"result","subtype":"success","is_error":false,"result":"x"}'
        IFS= read -r line && exit 7; exit 0"#;
    assert_eq!(results_of(script).await, 1);
}

#[tokio::test]
async fn malformed_responses_end_their_request() {
    let (_directory, options) = scripted(
        r#"read_line; write_line "{\"type\":\"control_response\",\"request_id\":\"$id\"}"
        read_line; write_line "{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\"response\":7}}"
        read_line; write_line "{\"type\":\"control_response\",\"response\":{\"request_id\":\"$id\",\"error\":\"no\"}}"
        read_line; write_line "{\"type\":\"control_response\",\"response\":{\"request_id\":\"$id\","
        report_all"#,
    );
    let (session, _inbox) = Session::connect(&options).await.unwrap();
    let ask = || within("an answer", session.request(json!({ "subtype": "any" })));
    let error = ask().await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
    assert!(error.to_string().contains("control_response"), "{error}");
    assert_eq!(ask().await.unwrap(), json!(7));
    assert!(matches!(ask().await, Err(Error::Refused { message, .. }) if message == "no"));
    let error = ask().await.unwrap_err();
    assert!(matches!(&error, Error::BadAnswer { problem, .. } if problem.contains("not JSON")));
    assert_eq!(session.pending(), 0);
}
