//! Tests of batches.

use super::*;

#[test]
fn batch_is_answered_as_one() {
    let mut test = Test::new(Dialect::STRICT);
    let (first, second) = (test.join(), test.join());
    test.client(first, json!([call(json!(1)), notification("n", json!({})), call(json!("1"))]));
    let one = test.at_program()["id"].clone();
    assert_eq!(test.at_program()["method"], "n");
    let two = test.at_program()["id"].clone();
    test.client(second, json!([notification("n", json!({}))]));
    test.at_program();
    test.program(result(&two, json!("b")));
    test.is_quiet();
    // The program answers in a batch, too.
    test.program(json!([result(&one, json!("a"))]));
    assert_eq!(
        test.at_client(first),
        json!([result(&json!("1"), json!("b")), result(&json!(1), json!("a"))])
    );
    test.is_quiet();
}

#[test]
fn messages_from_a_client_that_has_left_are_dropped() {
    let mut test = Test::new(Dialect::MCP_2025_03_26);
    let client = test.opened(json!({}));
    test.leave(client);
    test.client(client, json!([call(json!(1)), call(json!(2))]));
    test.client(client, notification("notifications/roots/list_changed", json!({})));
    test.is_quiet();
    assert!(test.hub.batches.is_empty());
}

#[test]
fn collected_responses_of_all_batches_are_bounded() {
    let mut test = Test::new(Dialect::STRICT);
    let client = test.join();
    let mut asked = Vec::new();
    for id in 0..8 {
        test.client(client, json!([call(json!(id)), call(json!(id))]));
        asked.push(test.at_program()["id"].clone());
        test.at_program();
    }
    let long = "x".repeat(100 * 1024);
    for id in &asked {
        test.program(result(id, json!(long)));
        assert!(test.hub.batches.collected() < 256 * 1024);
    }
    // Responses for which there was no room are sent at once, still as part of a batch.
    for id in 2..8 {
        assert_eq!(test.at_client(client), json!([result(&json!(id), json!(long))]));
    }
    test.is_quiet();
    test.leave(client);
    assert_eq!(test.hub.batches.collected(), 0);
}
