use serde_json::{Value, json};

use super::*;

const PREFIX: &str = "tieline-probe-x-";

fn machine() -> Machine {
    Machine::new(Dialect::MCP, Dialect::MCP.ping.unwrap(), PREFIX.into())
}

fn bytes(message: &Value) -> Bytes {
    message.to_string().into()
}

fn initialize() -> Bytes {
    bytes(&json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}))
}

fn untied() -> Bytes {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    bytes(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}))
}

fn answer(id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {}})
}

/// Sends the next ping, and returns it.
fn ping(machine: &mut Machine) -> Value {
    let Tick::Ping(ping) = machine.tick(false) else { panic!("no ping") };
    machine.pinged(ping.len());
    serde_json::from_slice(&ping).unwrap()
}

/// A machine whose program has answered the first request.
fn opened(first: &Bytes) -> Machine {
    let mut machine = machine();
    machine.passed(first);
    assert_eq!(machine.received(bytes(&answer(&json!(1)))), Some(bytes(&answer(&json!(1)))));
    machine
}

#[test]
fn program_is_pinged_only_after_it_has_answered_its_first_request() {
    let mut machine = machine();
    let banner = Bytes::from("starting");
    assert_eq!(machine.received(banner.clone()), Some(banner));
    for _ in 0..10 {
        assert_eq!(machine.tick(false), Tick::Nothing);
    }
    machine.passed(&initialize());
    // It may still be downloading what it runs.
    for _ in 0..10 {
        assert_eq!(machine.tick(false), Tick::Nothing);
    }
    machine.received(bytes(&answer(&json!(1))));
    assert_eq!(ping(&mut machine)["method"], "ping");
}

#[test]
fn each_version_of_the_protocol_has_its_own_ping() {
    let message = ping(&mut opened(&initialize()));
    assert_eq!((&message["method"], message.get("params")), (&json!("ping"), None));
    let mut machine = opened(&untied());
    let message = ping(&mut machine);
    let meta = &message["params"]["_meta"];
    assert_eq!(message["method"], "server/discover");
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    // The client tries the newer version first.
    machine.passed(&initialize());
    assert_eq!(ping(&mut machine)["method"], "ping");
    // Later requests may have any parameters.
    machine.passed(&untied());
    assert_eq!(ping(&mut machine)["method"], "ping");
}

#[test]
fn three_pings_without_an_answer_in_a_row_are_too_many() {
    let mut machine = opened(&initialize());
    for _ in 0..MISSES {
        ping(&mut machine);
    }
    assert_eq!(machine.tick(false), Tick::Gone);
}

#[test]
fn every_message_and_every_byte_is_a_sign_of_life() {
    let mut machine = opened(&initialize());
    for round in 0..20 {
        ping(&mut machine);
        ping(&mut machine);
        match round % 3 {
            0 => drop(machine.received(bytes(&json!({"jsonrpc": "2.0", "method": "n"})))),
            1 => machine.alive(),
            _ => {
                let Tick::Ping(ping) = machine.tick(true) else { panic!("no ping") };
                machine.pinged(ping.len());
            }
        }
    }
    // Answers to old pings are taken out, too.
    assert_eq!(machine.received(bytes(&answer(&json!(format!("{PREFIX}1"))))), None);
}

#[test]
fn answers_to_pings_are_taken_out_and_everything_else_passes() {
    let mut machine = opened(&initialize());
    let id = ping(&mut machine)["id"].clone();
    assert_eq!(id, json!(format!("{PREFIX}1")));
    for other in [
        answer(&json!(1)),
        answer(&json!("tieline-probe-")),
        answer(&json!(format!("{PREFIX}2"))),
        json!({"jsonrpc": "2.0", "id": id, "method": "a request of the program"}),
        json!({"jsonrpc": "2.0", "method": "n", "params": {"id": id}}),
        json!([answer(&json!(1)), {"jsonrpc": "2.0", "method": id}]),
    ] {
        assert_eq!(machine.received(bytes(&other)), Some(bytes(&other)));
    }
    let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}});
    assert_eq!(machine.received(bytes(&error)), None);
    // A second answer is not the gateway's any more.
    assert_eq!(machine.received(bytes(&error)), Some(bytes(&error)));
    assert_eq!(machine.due_bytes(), 0);
}

#[test]
fn answers_to_pings_are_taken_out_of_batches() {
    let mut machine = opened(&initialize());
    let mut due: Vec<Value> = (0..3).map(|_| ping(&mut machine)["id"].clone()).collect();
    let (other, own) = (answer(&json!(7)), answer(&due.remove(0)));
    let left = machine.received(bytes(&json!([other, own, other]))).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&left).unwrap(), json!([other, other]));
    let all: Vec<Value> = due.iter().map(answer).collect();
    assert_eq!(machine.received(bytes(&json!(all))), None);
}

#[test]
fn pings_that_are_never_answered_are_bounded() {
    let mut machine = opened(&initialize());
    for _ in 0..2 * MAX_DUE {
        ping(&mut machine);
        machine.alive();
    }
    assert_eq!(machine.due.len(), MAX_DUE);
}
