#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::task::Waker;

use tieline_proto::ByteSize;
use tieline_proto::jsonrpc::{Dialect, Sharing};

use super::*;

fn exchange(budget: &MemoryBudget) -> (Arc<Exchange>, Arc<AtomicU64>) {
    let Sharing::Possible(rules) = Dialect::MCP.sharing else { panic!("MCP can be shared") };
    let lost = Arc::<AtomicU64>::default();
    (Exchange::new(Hub::new(Dialect::MCP, rules), Some(budget.clone()), lost.clone()), lost)
}

fn request(id: usize, method: &str, params: &str) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#).into()
}

/// Sends a message and lets the program take it.
fn send(exchange: &Exchange, client: ClientId, message: Bytes) -> VecDeque<Bytes> {
    let cx = Context::from_waker(Waker::noop());
    let _ = exchange.push(client, message);
    exchange.for_program(64, &cx)
}

#[test]
fn what_the_hub_holds_for_a_client_ends_the_line_of_that_client_only() {
    let budget = MemoryBudget::new(ByteSize::new(256 * 1024));
    let (exchange, _) = exchange(&budget);
    let cx = Context::from_waker(Waker::noop());
    let (first, second) = (exchange.join().unwrap(), exchange.join().unwrap());
    send(&exchange, first, request(1, "resources/subscribe", r#"{"uri":"a"}"#));
    // It waits for the response to the first client's request.
    let long = format!(r#"{{"uri":"a","x":"{}"}}"#, "x".repeat(100_000));
    for id in 0..10 {
        send(&exchange, second, request(id, "resources/subscribe", &long));
    }
    let Poll::Ready(Incoming::End(reason)) = exchange.poll_output(second, &cx) else {
        panic!("the line goes on")
    };
    assert!(matches!(reason, CloseReason::NoMemory(_)), "{reason}");
    assert!(exchange.poll_output(first, &cx).is_pending());
    assert!(exchange.refused(&cx).is_none());
    exchange.leave(second);
    assert_eq!(budget.used().bytes(), 0);
}

#[test]
fn what_all_clients_share_ends_the_program() {
    let budget = MemoryBudget::new(ByteSize::new(256 * 1024));
    let (exchange, _) = exchange(&budget);
    let cx = Context::from_waker(Waker::noop());
    let client = exchange.join().unwrap();
    let asked = send(&exchange, client, request(1, "initialize", "{}"));
    assert_eq!(asked.len(), 1);
    assert!(exchange.refused(&cx).is_none());
    let result = format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{}"}}"#, "x".repeat(500_000));
    exchange.handle([FromProgram::Message(result.into())]);
    assert!(matches!(exchange.refused(&cx), Some(CloseReason::NoMemory(_))));
}

#[test]
fn refusals_for_a_program_that_does_not_read_are_counted_when_they_are_dropped() {
    let budget = MemoryBudget::new(ByteSize::mib(16));
    let (exchange, lost) = exchange(&budget);
    let requests = (0..OWN_MESSAGES + 5).map(|id| request(id, "roots/list", "{}"));
    exchange.handle(requests.map(FromProgram::Message));
    assert_eq!(lost.load(Relaxed), 5);
    assert!(budget.used().bytes() >= 256 * OWN_MESSAGES, "{}", budget.used());
    while !exchange.for_program(64, &Context::from_waker(Waker::noop())).is_empty() {}
    exchange.handle([]);
    assert_eq!(exchange.lock().to_program_bytes, 0);
}

#[test]
fn unread_input_is_attributed_to_the_clients_that_sent_it() {
    let budget = MemoryBudget::new(ByteSize::mib(16));
    let (exchange, _) = exchange(&budget);
    let [first, second, silent] = [(); 3].map(|()| exchange.join().unwrap());
    let mut sizes = Vec::new();
    for client in [first, second] {
        let taken = send(&exchange, client, request(1, "tools/call", r#"{"name":"x"}"#));
        sizes.push(taken.iter().map(|message| message.len() + 1).sum::<usize>());
    }
    // The program has read all but the last message and 5 bytes of the one before.
    let waiting = request(2, "tools/call", "{}");
    exchange.push(first, waiting.clone()).unwrap();
    exchange.end(&CloseReason::StdoutClosed, sizes[1] + 5);
    assert_eq!(exchange.unwritten(first), 5 + waiting.len());
    assert_eq!(exchange.unwritten(second), sizes[1]);
    assert_eq!(exchange.unwritten(silent), 0);
}

#[cfg(unix)]
#[test]
fn exit_of_the_program_has_each_clients_share_of_the_unread_input() {
    use std::os::unix::process::ExitStatusExt;

    let budget = MemoryBudget::new(ByteSize::mib(16));
    let (exchange, _) = exchange(&budget);
    let cx = Context::from_waker(Waker::noop());
    let (talking, silent) = (exchange.join().unwrap(), exchange.join().unwrap());
    send(&exchange, talking, request(1, "tools/call", "{}"));
    let exit = ChildExit {
        status: std::process::ExitStatus::from_raw(0),
        stderr_tail: Bytes::new(),
        unterminated: false,
        truncated: None,
        unread: Some(20),
        guardian_lost: false,
    };
    exchange.end(&CloseReason::ChildExited(Arc::new(exit)), 0);
    for (client, expected) in [(talking, 20), (silent, 0)] {
        let Poll::Ready(Incoming::End(reason)) = exchange.poll_output(client, &cx) else {
            panic!("the line goes on")
        };
        assert_eq!(reason.child_exit().unwrap().unread, Some(expected));
        assert_eq!(exchange.unwritten(client), 0);
    }
}
