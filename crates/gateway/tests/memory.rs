//! One budget bounds the memory that the gateway itself uses for many lines. The tests run in virtual
//! time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::future::pending;
use std::time::Duration;

use tieline_gateway::{Bridge, BridgeEnd, BridgeReport, Overflow, bridge};
use tieline_proto::jsonrpc::Dialect;
use tieline_proto::{ByteSize, LengthPrefix};
use tieline_testkit::duplex;
use tieline_transport::{
    Capabilities, Channel, CloseReason, Incoming, MemoryBudget, MemoryChannel, Receiver,
    ReceiverExt, Sender, SenderExt, TransportKind, memory_pair,
};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

const MIB: usize = 1 << 20;
const LINES: usize = 20;
const LIMIT: Duration = Duration::from_secs(60);

type Half<S> = (S, Box<dyn Receiver>);

/// Lines with a common budget of 8 MiB: the clients' ends, the programs' ends, and the reports.
struct Lines {
    budget: MemoryBudget,
    clients: Vec<Half<Box<dyn Sender>>>,
    programs: Vec<Half<Box<dyn Sender>>>,
    reports: JoinSet<BridgeReport>,
}

fn lines(options: Bridge) -> Lines {
    let budget = MemoryBudget::new(ByteSize::mib(8));
    let split = |channel: MemoryChannel| channel.boxed().split();
    let (mut clients, mut programs, mut reports) = (Vec::new(), Vec::new(), JoinSet::new());
    for _ in 0..LINES {
        let ((client, near), (far, program)) = (memory_pair(), memory_pair());
        // The grace period is shorter than the stall timeout of 10 s.
        let grace = Duration::from_secs(1);
        let options = Bridge { memory: Some(budget.clone()), grace, ..options.clone() };
        reports.spawn(bridge(near.boxed(), far.boxed(), options, pending()));
        clients.push(split(client));
        programs.push(split(program));
    }
    Lines { budget, clients, programs, reports }
}

impl Lines {
    /// Waits until `count` lines have ended because of the budget, and checks the bound.
    async fn await_ended(&mut self, count: usize) {
        for _ in 0..count {
            let report = timeout(LIMIT, self.reports.join_next()).await.expect("no line ended");
            let end = report.unwrap().unwrap().end;
            let is_it = matches!(&end, BridgeEnd::Near { near: CloseReason::NoMemory(_), .. });
            assert!(is_it, "{end}");
            assert!(end.to_string().contains("out of memory"), "{end}");
            self.assert_bounded();
        }
    }

    fn assert_bounded(&self) {
        assert!(self.budget.used().bytes() <= 10 * MIB, "{}", self.budget.used());
    }

    /// Ends all lines, and checks that all memory was returned to the budget.
    async fn end(self) {
        let Self { budget, clients, programs, mut reports } = self;
        drop((clients, programs));
        while reports.join_next().await.is_some() {}
        assert_eq!(budget.used().bytes(), 0);
    }
}

/// The programs do not read, so on each line a message waits for room.
#[tokio::test(start_paused = true)]
async fn messages_in_flight_to_stalled_programs_share_a_bound() {
    let mut lines = lines(Bridge::default());
    let mut sending = JoinSet::new();
    for (mut sender, receiver) in std::mem::take(&mut lines.clients) {
        sending.spawn(async move {
            while sender.send(vec![b'x'; MIB]).await.is_ok() {}
            drop(receiver);
        });
    }
    // At most 10 MiB are granted before the other lines have ended.
    lines.await_ended(LINES - 10).await;
    lines.assert_bounded();
    sending.shutdown().await;
    lines.end().await;
}

/// The clients do not read, and messages for them are dropped, so no line has to end.
#[tokio::test(start_paused = true)]
async fn messages_for_slow_clients_are_dropped_before_the_budget_is_exceeded() {
    let mut lines = lines(Bridge { overflow: Overflow::DropOldest, ..Bridge::default() });
    let mut sending = JoinSet::new();
    for (mut sender, receiver) in std::mem::take(&mut lines.programs) {
        sending.spawn(async move {
            for _ in 0..100 {
                sender.send(vec![b'x'; MIB / 4]).await.unwrap();
            }
            (sender, receiver)
        });
    }
    let mut programs = Vec::new();
    while let Some(program) =
        timeout(LIMIT, sending.join_next()).await.expect("a program is blocked")
    {
        lines.assert_bounded();
        programs.push(program.unwrap());
    }
    assert!(lines.budget.refused() > 0);
    assert!(lines.reports.try_join_next().is_none(), "a line ended");
    lines.programs = programs;
    lines.end().await;
}

/// Hostile clients send invalid requests, and do not read the error responses.
#[tokio::test(start_paused = true)]
async fn unread_error_responses_share_a_bound() {
    let mut lines = lines(Bridge { dialect: Some(Dialect::STRICT), ..Bridge::default() });
    let mut sending = JoinSet::new();
    let id = "i".repeat(4000);
    for (mut sender, receiver) in std::mem::take(&mut lines.clients) {
        // The duplicate id makes the request invalid.
        let refused = format!(r#"{{"jsonrpc":"2.0","id":"{id}","id":"{id}","method":"m"}}"#);
        sending.spawn(async move {
            while sender.send(refused.clone()).await.is_ok() {}
            drop(receiver);
        });
    }
    lines.await_ended(LINES / 2).await;
    lines.assert_bounded();
    sending.shutdown().await;
    lines.end().await;
}

/// The program never answers the requests.
#[tokio::test(start_paused = true)]
async fn ids_of_unanswered_requests_share_a_bound() {
    let mut lines = lines(Bridge { dialect: Some(Dialect::STRICT), ..Bridge::default() });
    let (mut sending, mut reading) = (JoinSet::new(), JoinSet::new());
    for (sender, mut receiver) in std::mem::take(&mut lines.programs) {
        reading.spawn(async move {
            while !matches!(receiver.recv().await, Incoming::End(_)) {}
            drop(sender);
        });
    }
    for (mut sender, receiver) in std::mem::take(&mut lines.clients) {
        sending.spawn(async move {
            for number in 0_u32.. {
                let id = format!("{number:04000}");
                let request = format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"m"}}"#);
                if sender.send(request).await.is_err() {
                    break;
                }
            }
            drop(receiver);
        });
    }
    lines.await_ended(LINES / 2).await;
    lines.assert_bounded();
    sending.shutdown().await;
    reading.shutdown().await;
    lines.end().await;
}

/// The program reads nothing until its input ends, and then exits.
#[tokio::test(start_paused = true)]
async fn line_ends_for_the_queue_to_a_program_and_not_for_its_exit() {
    let budget = MemoryBudget::new(ByteSize::mib(1));
    let (end, program) = tokio::io::duplex(64 * 1024);
    let capabilities = Capabilities { half_close: true, ..Capabilities::default() };
    let framing = LengthPrefix::new(ByteSize::mib(4));
    let far = duplex::framed(end, framing, TransportKind::PIPE, capabilities);
    let far = far.within(Some(&budget));
    let (client, near) = memory_pair();
    let (mut sender, _receiver) = client.boxed().split();
    let report = tokio::spawn(bridge(near.boxed(), far.boxed(), Bridge::default(), pending()));
    sender.send(vec![b'x'; 2 * MIB]).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut program = program;
        let mut received = Vec::new();
        program.read_to_end(&mut received).await.unwrap();
        received.len()
    });
    let report = timeout(LIMIT, report).await.expect("the line did not end");
    let end = report.unwrap().end;
    let is_it = matches!(&end, BridgeEnd::Near { near: CloseReason::NoMemory(_), .. });
    assert!(is_it, "{end}");
    assert!(reading.await.unwrap() < 2 * MIB);
    assert_eq!(budget.used().bytes(), 0);
}
