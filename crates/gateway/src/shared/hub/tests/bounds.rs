//! What hostile clients and programs can make the hub hold.

use super::*;

fn subscribe(id: usize, uri: &str) -> Value {
    request(json!(id), "resources/subscribe", json!({"uri": uri}))
}

#[test]
fn names_of_subscriptions_are_bounded_and_released() {
    let mut test = Test::new(Dialect::MCP);
    let client = test.opened(json!({}));
    let empty = test.hub.held();
    let long = "x".repeat(10_000);
    let mut refused = 0;
    for number in 0..200 {
        test.client(client, subscribe(number, &format!("{number}{long}")));
        match test.program.pop_front() {
            Some(asked) => {
                let asked: Value = serde_json::from_slice(&asked).unwrap();
                test.program(result(&asked["id"], json!({})));
                assert!(test.at_client(client)["error"].is_null());
            }
            None => {
                refused += 1;
                let error = test.at_client(client)["error"]["message"].to_string();
                assert!(error.contains("1024, or of 1048576 bytes"), "{error}");
            }
        }
    }
    assert!((90..100).contains(&refused), "{refused}");
    assert!(test.hub.held() < 3 * 1024 * 1024, "{}", test.hub.held());
    assert!(test.held[&client] > 900_000, "{:?}", test.held);
    // Joining the subscriptions of others is bounded, too.
    let other = test.opened(json!({}));
    for number in 0..200 {
        test.client(other, subscribe(number, &format!("{number}{long}")));
        if let Some(asked) = test.program.pop_front() {
            let asked: Value = serde_json::from_slice(&asked).unwrap();
            test.program(result(&asked["id"], json!({})));
        }
    }
    test.clients.clear();
    assert!(test.hub.clients[&other].name_bytes <= 1024 * 1024);
    test.leave(client);
    test.leave(other);
    assert_eq!(test.hub.held(), empty);
}

/// The program never answers, so the names stay when their clients leave.
#[test]
fn subscriptions_that_are_never_answered_are_bounded_over_all_clients() {
    let mut test = Test::new(Dialect::MCP);
    let long = "x".repeat(15_000);
    let mut refusal = None;
    for number in 0..4_000 {
        let client = test.opened(json!({}));
        test.client(client, subscribe(1, &format!("{number}{long}")));
        if test.program.pop_front().is_none() {
            refusal = Some(test.at_client(client)["error"]["message"].to_string());
            break;
        }
        test.leave(client);
        test.clients.clear();
    }
    assert!(refusal.is_some_and(|it| it.contains("or of 16777216 bytes")));
    assert!(test.hub.held() < 17 * 1024 * 1024, "{}", test.hub.held());
}

#[test]
fn ids_and_progress_tokens_are_refused_with_their_limit_and_reported() {
    let mut test = Test::new(Dialect::MCP);
    let client = test.opened(json!({}));
    let long = "x".repeat(4_000);
    for number in 0..200 {
        let token = json!({"_meta": {"progressToken": format!("{number}{long}")}});
        test.client(client, request(json!(format!("{number}{long}")), "tools/call", token));
    }
    let error = test.at_client(client)["error"]["message"].to_string();
    assert!(error.contains("262144 bytes"), "{error}");
    let held = test.hub.clients[&client].held();
    assert!((256 * 1024..512 * 1024).contains(&held), "{held}");
    assert!(held - test.held[&client] < 64 * 1024, "{held} and {:?}", test.held);
    for asked in std::mem::take(&mut test.program) {
        let asked: Value = serde_json::from_slice(&asked).unwrap();
        test.program(result(&asked["id"], json!({})));
    }
    assert_eq!(test.hub.clients[&client].held(), 0);
    assert!(test.held[&client] < 64 * 1024, "{:?}", test.held);
}

#[test]
fn result_that_is_too_long_to_keep_is_refused_and_closed() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.opened(json!({})), test.opened(json!({})));
    for client in [first, second] {
        test.client(client, subscribe(1, "a"));
    }
    for client in [first, second] {
        let asked = test.at_program();
        assert_eq!(asked["method"], "resources/subscribe");
        test.program(result(&asked["id"], json!("x".repeat(70_000))));
        let error = test.at_client(client)["error"]["message"].to_string();
        assert!(error.contains("longer than 65536 bytes"), "{error}");
        assert_eq!(test.at_program()["method"], "resources/unsubscribe");
    }
    test.is_quiet();
    assert!(test.hub.clients.values().all(|it| it.things.is_empty() && it.open == 0));
}

#[test]
fn cancelled_subscription_leaves_nothing() {
    let mut test = Test::new(Dialect::MCP);
    let (first, second) = (test.opened(json!({})), test.opened(json!({})));
    let empty = test.hub.held();
    test.client(first, subscribe(1, "a"));
    let asked = test.at_program();
    test.client(second, subscribe(1, "a"));
    for client in [second, first] {
        test.client(client, notification("notifications/cancelled", json!({"requestId": 1})));
        let its = &test.hub.clients[&client];
        assert_eq!(its.held(), 0, "{client:?}");
    }
    test.program(result(&asked["id"], json!({})));
    assert_eq!(test.at_program()["method"], "resources/unsubscribe");
    test.is_quiet();
    assert_eq!(test.hub.held(), empty);
}

#[test]
fn requests_of_a_hostile_program_are_bounded() {
    let mut test = Test::new(Dialect::MCP);
    let client = test.opened(json!({"roots": {}}));
    let long = "x".repeat(5_000);
    let token = json!({"_meta": {"progressToken": long}});
    test.program(request(json!(0), "roots/list", token));
    let error = test.at_program()["error"]["message"].to_string();
    assert!(error.contains("longer than 4096 bytes"), "{error}");
    let long = "x".repeat(4_000);
    for number in 0..2 * MAX_ASKED {
        let token = json!({"_meta": {"progressToken": format!("{number}{long}")}});
        test.program(request(json!(format!("{number}{long}")), "roots/list", token));
    }
    assert_eq!(test.program.len(), MAX_ASKED);
    let error = test.at_program()["error"]["message"].to_string();
    assert!(error.contains("the limit of 1024"), "{error}");
    assert!(test.hub.held() > 8_000 * MAX_ASKED, "{}", test.hub.held());
    test.leave(client);
    assert!(test.hub.asked.is_empty());
}

#[test]
fn requests_of_the_hub_that_a_program_never_answers_are_bounded() {
    let mut test = Test::new(Dialect::MCP);
    for number in 0..3 * MAX_OWN {
        let client = test.opened(json!({}));
        test.client(client, subscribe(1, &number.to_string()));
        let asked = test.at_program();
        test.program(result(&asked["id"], json!({})));
        test.leave(client);
        assert_eq!(test.at_program()["method"], "resources/unsubscribe");
        test.clients.clear();
    }
    assert_eq!(test.hub.calls.len(), MAX_OWN);
}
