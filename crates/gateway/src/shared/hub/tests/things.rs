//! Tests of subscriptions.

use super::*;

#[test]
fn subscription_is_made_once_and_ends_with_its_last_client() {
    let mut test = Test::new(Dialect::MCP);
    let [first, second, third] = [(); 3].map(|()| test.opened(json!({})));
    let subscribe = |uri: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{{"uri":{uri}}}}}"#
        )
    };
    let unsubscribe = |uri: &str| subscribe(uri).replace("subscribe", "unsubscribe");
    test.client_text(first, &subscribe(r#""a""#));
    test.client_text(second, &subscribe(r#""\u0061""#));
    let asked = test.at_program();
    test.is_quiet();
    test.program(result(&asked["id"], json!({"x": 1})));
    for client in [first, second] {
        assert_eq!(test.at_client(client), result(&json!(1), json!({"x": 1})));
    }
    let updated = |uri: &str| notification("notifications/resources/updated", json!({"uri": uri}));
    test.program(updated("a"));
    for client in [first, second] {
        assert_eq!(test.at_client(client), updated("a"));
    }
    // This is a part of the resource that the clients have subscribed to.
    test.program(updated("a/b"));
    for client in [first, second] {
        assert_eq!(test.at_client(client), updated("a/b"));
    }
    test.is_quiet();
    test.client_text(first, &unsubscribe(r#""a""#));
    assert_eq!(test.at_client(first), result(&json!(1), json!({})));
    test.client_text(third, &unsubscribe(r#""a""#));
    assert_eq!(test.at_client(third), result(&json!(1), json!({})));
    test.program(updated("a"));
    assert_eq!(test.at_client(second), updated("a"));
    test.is_quiet();
    test.leave(second);
    let closed = test.at_program();
    assert_eq!(closed["method"], "resources/unsubscribe");
    assert_eq!(closed["params"], json!({"uri": "a"}));
    test.program(result(&closed["id"], json!({})));
    test.program(updated("a"));
    test.is_quiet();
    // A client leaves before the answer.
    test.client_text(first, &subscribe(r#""b""#));
    let asked = test.at_program();
    test.leave(first);
    test.is_quiet();
    test.program(result(&asked["id"], json!({})));
    assert_eq!(test.at_program()["params"], json!({"uri": "b"}));
    // A refused subscription does not refuse that of another client.
    let fourth = test.opened(json!({}));
    test.client_text(third, &subscribe(r#""c""#));
    test.client_text(fourth, &subscribe(r#""c""#));
    let asked = test.at_program();
    test.program(
        json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": 1, "message": "x"}}),
    );
    assert_eq!(test.at_client(third)["error"]["code"], 1);
    assert_eq!(test.at_program()["method"], "resources/subscribe");
    test.is_quiet();
}

#[test]
fn refused_subscription_does_not_make_other_clients_wait() {
    let mut test = Test::new(Dialect::MCP);
    let [one, two] = [(); 2].map(|()| test.opened(json!({})));
    let subscribe = |id: u64, token: Value| {
        request(
            json!(id),
            "resources/subscribe",
            json!({"uri": "a", "_meta": {"progressToken": token}}),
        )
    };
    test.client(one, subscribe(1, json!("x".repeat(MAX_ID))));
    assert_eq!(
        test.at_client(one)["error"]["message"],
        "the progress token is longer than 4096 bytes"
    );
    test.is_quiet();
    test.client(two, subscribe(2, json!(2)));
    let asked = test.at_program();
    assert_eq!(asked["params"]["uri"], "a");
    test.program(result(&asked["id"], json!({})));
    assert_eq!(test.at_client(two)["id"], 2);
    test.is_quiet();
}
