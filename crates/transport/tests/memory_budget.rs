//! Lines that share a memory budget, with every framing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::poll_fn;
use std::time::Duration;

use tieline_proto::{ByteSize, FramingKind};
use tieline_transport::{
    Channel, CloseReason, Endpoint, Holding, Incoming, MemoryBudget, MemoryRefused, Options,
    ReadBuffer, Receiver, ReceiverExt, Registry, SenderExt,
};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

const MIB: usize = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Returns the first 6 MiB of a message of 8 MiB.
fn beginning(framing: FramingKind) -> Vec<u8> {
    let head = match framing {
        FramingKind::Lines => Vec::new(),
        FramingKind::ContentLength => format!("Content-Length: {}\r\n\r\n", 8 * MIB).into_bytes(),
        _ => (8 * MIB as u32).to_be_bytes().to_vec(),
    };
    [head, vec![b'x'; 6 * MIB]].concat()
}

async fn end(receiver: &mut impl Receiver) -> CloseReason {
    let ending = async {
        loop {
            if let Incoming::End(reason) = receiver.recv().await {
                return reason;
            }
        }
    };
    timeout(LIMIT, ending).await.expect("the line does not end")
}

#[tokio::test]
async fn incomplete_message_is_refused_in_every_framing() {
    let registry = Registry::new();
    for framing in [FramingKind::Lines, FramingKind::ContentLength, FramingKind::LengthPrefix] {
        for json in [false, true] {
            let endpoint: Endpoint = format!("mem:budget-{framing}-{json}").parse().unwrap();
            let budget = MemoryBudget::new(ByteSize::mib(4));
            let memory = Some(budget.clone());
            let options = Options { memory, json, framing: Some(framing), ..Options::default() };
            let mut acceptor = registry.listen(&endpoint, &options).await.unwrap();
            let mut client = registry.connect_bytes(&endpoint, &options).await.unwrap();
            let (_sender, mut receiver) = acceptor.accept().await.unwrap().split();
            let beginning = beginning(framing);
            // Only part of the message is read.
            let writing = async {
                let _ = client.write_all(&beginning).await;
                std::future::pending().await
            };
            let reason = tokio::select! {
                reason = end(&mut receiver) => reason,
                never = writing => never,
            };
            assert!(matches!(reason, CloseReason::NoMemory(_)), "{framing} {json}: {reason}");
            assert!(reason.hint().unwrap().contains("--max-memory"), "{reason}");
            assert_eq!(budget.used(), ByteSize::new(0), "{framing} {json}");
            assert_eq!(budget.refused(), 1, "{framing} {json}");
        }
    }
}

#[tokio::test]
async fn queue_for_a_reader_that_does_not_read_is_refused() {
    let registry = Registry::new();
    let budget = MemoryBudget::new(ByteSize::mib(4));
    let options = Options { memory: Some(budget.clone()), ..Options::default() };
    let endpoint: Endpoint = "lines+mem:budget-queue".parse().unwrap();
    let mut acceptor = registry.listen(&endpoint, &options).await.unwrap();
    let _client = registry.connect_bytes(&endpoint, &options).await.unwrap();
    let (mut sender, _receiver) = acceptor.accept().await.unwrap().split();
    let sent = timeout(LIMIT, sender.send(vec![b'x'; 6 * MIB])).await.expect("not refused");
    let error = sent.unwrap_err();
    let reason = error.close_reason().unwrap();
    assert!(matches!(reason, CloseReason::NoMemory(_)), "{reason}");
    assert_eq!(budget.used(), ByteSize::new(0));
}

#[tokio::test]
async fn messages_within_the_budget_arrive_and_are_no_longer_counted() {
    let registry = Registry::new();
    let budget = MemoryBudget::new(ByteSize::mib(8));
    let options = Options { memory: Some(budget.clone()), ..Options::default() };
    let endpoint: Endpoint = "lines+mem:budget-through".parse().unwrap();
    let mut acceptor = registry.listen(&endpoint, &options).await.unwrap();
    let (client, server) = tokio::join!(registry.connect(&endpoint, &options), acceptor.accept());
    let ((mut sender, _in), (_out, mut receiver)) =
        (client.unwrap().split(), server.unwrap().split());
    for length in [1, 70_000, MIB, 10, 2 * MIB, 300_000] {
        let (sent, came) = tokio::join!(sender.send(vec![b'x'; length]), receiver.recv());
        sent.unwrap();
        let Incoming::Message(message) = came else { panic!("{came:?}") };
        assert_eq!(message.len(), length);
    }
    drop((sender, receiver));
    assert_eq!(budget.refused(), 0);
    assert_eq!(budget.used(), ByteSize::new(0));
}

/// All bytes of the message are available, so only the budget can delay its reader.
#[tokio::test(start_paused = true)]
async fn message_waits_until_a_larger_revoked_one_is_dropped() {
    const LENGTH: usize = 2 * MIB + 1;
    for leaves in [true, false] {
        let budget = MemoryBudget::new(ByteSize::mib(8));
        let mut large = budget.account(Holding::Message);
        large.set(8 * MIB).unwrap();
        let mut large = Some(large);
        let bytes = vec![b'x'; LENGTH];
        let mut stream = &bytes[..];
        let mut buffer = ReadBuffer::new(Default::default()).within(Some(&budget));
        let begun = tokio::time::Instant::now();
        let reading = async {
            while buffer.len() < LENGTH {
                let missing = LENGTH - buffer.len();
                poll_fn(|cx| buffer.poll_fill(&mut stream, missing, cx)).await?;
            }
            Ok::<_, std::io::Error>(buffer.len())
        };
        // The line of the large message is polled when the other message cannot proceed.
        let leaving = async {
            assert!(large.as_ref().unwrap().is_revoked(), "it is the largest");
            large.take_if(|_| leaves);
        };
        let (read, ()) = tokio::join!(biased; reading, leaving);
        match leaves {
            true => {
                assert_eq!(read.unwrap(), LENGTH);
                assert_eq!((begun.elapsed(), budget.refused()), (Duration::ZERO, 1));
            }
            // If the line of the large message is not polled, the wait ends.
            false => {
                let refused = MemoryRefused::in_error(&read.unwrap_err()).unwrap();
                assert_eq!(refused.limit, ByteSize::mib(8));
                assert_eq!((begun.elapsed().as_secs(), budget.refused()), (1, 2));
            }
        }
        drop((large, buffer));
        assert_eq!(budget.used().bytes(), 0);
    }
}
