//! What the gateway itself holds of many lines is bounded by one budget. In virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::future::pending;
use std::time::Duration;

use tieline_gateway::{Bridge, BridgeEnd, BridgeReport, Overflow, bridge};
use tieline_proto::ByteSize;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    Channel, CloseReason, Incoming, MemoryBudget, MemoryChannel, Receiver, ReceiverExt, Sender,
    SenderExt, memory_pair,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

const MIB: usize = 1 << 20;
const LINES: usize = 20;
const LIMIT: Duration = Duration::from_secs(60);

type Half<S> = (S, Box<dyn Receiver>);

/// Lines that may hold 8 MiB together: the clients' ends, the programs' ends, and what becomes of them.
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
        // Less than the 10 s after which a side that does not read has stalled.
        let grace = Duration::from_secs(1);
        let options = Bridge { memory: Some(budget.clone()), grace, ..options.clone() };
        reports.spawn(bridge(near.boxed(), far.boxed(), options, pending()));
        clients.push(split(client));
        programs.push(split(program));
    }
    Lines { budget, clients, programs, reports }
}

impl Lines {
    /// All is within the bound, and so many lines have ended: each because too much was held.
    async fn ended(&mut self, count: usize) {
        for _ in 0..count {
            let report = timeout(LIMIT, self.reports.join_next()).await.expect("none has ended");
            let end = report.unwrap().unwrap().end;
            let is_it = matches!(&end, BridgeEnd::Near { near: CloseReason::NoMemory(_), .. });
            assert!(is_it, "{end}");
            assert!(end.to_string().contains("out of memory"), "{end}");
            self.is_bounded();
        }
    }

    fn is_bounded(&self) {
        assert!(self.budget.used().bytes() <= 10 * MIB, "{}", self.budget.used());
    }

    /// All lines end, and all is given back.
    async fn end(self) {
        let Self { budget, clients, programs, mut reports } = self;
        drop((clients, programs));
        while reports.join_next().await.is_some() {}
        assert_eq!(budget.used().bytes(), 0);
    }
}

/// The programs do not read: each line has a message in hand that waits for room.
#[tokio::test(start_paused = true)]
async fn messages_on_their_way_to_programs_that_do_not_read_share_a_bound() {
    let mut lines = lines(Bridge::default());
    let mut sending = JoinSet::new();
    for (mut sender, receiver) in std::mem::take(&mut lines.clients) {
        sending.spawn(async move {
            while sender.send(vec![b'x'; MIB]).await.is_ok() {}
            drop(receiver);
        });
    }
    // 10 MiB at most are granted while those that have to go have not gone.
    lines.ended(LINES - 10).await;
    lines.is_bounded();
    sending.shutdown().await;
    lines.end().await;
}

/// The clients do not read, and what waits for them is dropped: no line has to end.
#[tokio::test(start_paused = true)]
async fn what_waits_for_slow_clients_is_dropped_before_it_is_too_much() {
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
    while let Some(program) = timeout(LIMIT, sending.join_next()).await.expect("one is held up") {
        lines.is_bounded();
        programs.push(program.unwrap());
    }
    assert!(lines.budget.refused() > 0);
    assert!(lines.reports.try_join_next().is_none(), "a line has ended");
    lines.programs = programs;
    lines.end().await;
}

/// Hostile clients: they send what is refused, and do not read why.
#[tokio::test(start_paused = true)]
async fn refusals_that_no_client_reads_share_a_bound() {
    let mut lines = lines(Bridge { dialect: Some(Dialect::STRICT), ..Bridge::default() });
    let mut sending = JoinSet::new();
    let id = "i".repeat(4000);
    for (mut sender, receiver) in std::mem::take(&mut lines.clients) {
        // The doubled id makes it invalid.
        let refused = format!(r#"{{"jsonrpc":"2.0","id":"{id}","id":"{id}","method":"m"}}"#);
        sending.spawn(async move {
            while sender.send(refused.clone()).await.is_ok() {}
            drop(receiver);
        });
    }
    lines.ended(LINES / 2).await;
    lines.is_bounded();
    sending.shutdown().await;
    lines.end().await;
}

/// Clients whose requests a program never answers.
#[tokio::test(start_paused = true)]
async fn ids_of_requests_that_wait_share_a_bound() {
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
    lines.ended(LINES / 2).await;
    lines.is_bounded();
    sending.shutdown().await;
    reading.shutdown().await;
    lines.end().await;
}
