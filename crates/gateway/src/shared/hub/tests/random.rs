//! Random clients, ids, cancellations and disconnects against a program whose answers show which call
//! they belong to.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Returns an id for a client to use, from a small set so that ids clash.
fn any_id() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "0",
        "1",
        "-1",
        "1.0",
        "1.5",
        "1e3",
        "9007199254740993",
        "123456789012345678901234567890",
        "\"\"",
        "\"1\"",
        "\"a\"",
        "\"\\u0061\"",
        "\"a\\\"b\\\\\"",
        "\"é\"",
        "\"null\"",
        "\"x y\"",
    ])
    .prop_map(str::to_owned)
}

/// A step of a run.
#[derive(Clone, Debug)]
enum Step {
    Join,
    Leave(usize),
    Call(usize, String),
    Cancel(usize, String),
    /// The program answers one of the calls that it knows.
    Answer(usize),
    /// The program sends a notification to all.
    Notify,
    /// The program reports progress of one of its calls.
    Progress(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Join),
        1 => any::<usize>().prop_map(Step::Leave),
        8 => (any::<usize>(), any_id()).prop_map(|(client, id)| Step::Call(client, id)),
        2 => (any::<usize>(), any_id()).prop_map(|(client, id)| Step::Cancel(client, id)),
        6 => any::<usize>().prop_map(Step::Answer),
        1 => Just(Step::Notify),
        2 => any::<usize>().prop_map(Step::Progress),
    ]
}

fn pick<T>(all: &[T], number: usize) -> Option<&T> {
    all.get(number.checked_rem(all.len())?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The program answers with the parameters of the call, so each answer shows which client it is for.
    #[test]
    fn every_answer_reaches_the_client_that_asked_with_its_own_id(
        steps in proptest::collection::vec(any_step(), 1..120),
    ) {
        let mut test = Test::new(Dialect::MCP);
        let mut clients: Vec<ClientId> = Vec::new();
        // The calls that the program knows, each with its id and parameters.
        let mut at_program: Vec<(Value, Value)> = Vec::new();
        // Calls without an answer: client, id and number.
        let mut open: HashMap<u64, (ClientId, String)> = HashMap::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Join if clients.len() < 8 => clients.push(test.opened(json!({}))),
                Step::Join => {}
                Step::Leave(which) => {
                    let Some(client) = pick(&clients, which).copied() else { continue };
                    clients.retain(|it| *it != client);
                    open.retain(|_, (it, _)| *it != client);
                    test.leave(client);
                }
                Step::Call(which, id) => {
                    let Some(client) = pick(&clients, which).copied() else { continue };
                    number += 1;
                    test.client_text(client, &format!(
                        r#"{{"jsonrpc":"2.0", "method":"tools/call","id":{id},"params":{{"n":{number},"_meta":{{"progressToken":{id}}}}}}}"#
                    ));
                    open.insert(number, (client, id));
                }
                Step::Cancel(which, id) => {
                    let Some(client) = pick(&clients, which).copied() else { continue };
                    test.client_text(client, &format!(
                        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
                    ));
                }
                Step::Answer(which) => {
                    let Some((id, called)) = pick(&at_program, which).cloned() else { continue };
                    at_program.retain(|(it, _)| *it != id);
                    test.program(result(&id, called));
                }
                Step::Notify => {
                    test.program(notification("notifications/tools/list_changed", json!({})));
                    for client in &clients {
                        let received = test.at_client(*client);
                        prop_assert_eq!(&received["method"], "notifications/tools/list_changed");
                    }
                }
                Step::Progress(which) => {
                    let Some((id, called)) = pick(&at_program, which).cloned() else { continue };
                    let progress = json!({"progressToken": id, "n": called["n"]});
                    test.program(notification("notifications/progress", progress));
                }
            }
            while let Some(message) = test.program.pop_front() {
                let message: Value = serde_json::from_slice(&message).unwrap();
                match message["method"].as_str() {
                    Some("tools/call") => {
                        prop_assert_eq!(&message["params"]["_meta"]["progressToken"], &message["id"]);
                        prop_assert!(at_program.iter().all(|(id, _)| *id != message["id"]));
                        at_program.push((message["id"].clone(), message["params"].clone()));
                    }
                    Some("notifications/cancelled") => {
                        let cancelled = &message["params"]["requestId"];
                        let place = at_program.iter().position(|(id, _)| id == cancelled);
                        let place = place.expect("the call was in flight");
                        // The program may answer the call nevertheless, so the call stays known.
                        let n = at_program[place].1["n"].as_u64().unwrap();
                        open.remove(&n);
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            for (client, messages) in &mut test.clients {
                while let Some(message) = messages.pop_front() {
                    let text = String::from_utf8(message.to_vec()).unwrap();
                    let value: Value = serde_json::from_slice(&message).unwrap_or_default();
                    let n = value["result"]["n"].as_u64().or(value["params"]["n"].as_u64());
                    let (asker, id) = open[&n.expect("the number of the call")].clone();
                    prop_assert_eq!(asker, *client);
                    let name = if value["method"].is_null() { "id" } else { "progressToken" };
                    let named = format!("\"{name}\":{id}");
                    prop_assert!(text.contains(&named), "{text} lacks {named}");
                    if name == "id" {
                        open.remove(&n.unwrap());
                    }
                }
            }
        }
        // Calls that were not answered or cancelled are still known to the program.
        for n in open.keys() {
            prop_assert!(at_program.iter().any(|(_, called)| called["n"] == *n));
        }
        for client in clients {
            test.leave(client);
        }
        prop_assert_eq!(test.hub.calls.len(), 0);
        prop_assert!(test.hub.asked.is_empty() && test.hub.clients.is_empty());
    }
}
