//! The memory budget counts the messages that sessions keep, and those that wait for their consumers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use tieline_link::{SessionOptions, connector, listen};
use tieline_proto::ByteSize;
use tieline_transport::{
    BoxChannel, Channel, CloseReason, DynAcceptor, Incoming, LostBy, MemoryBudget, Options,
    ReceiverExt, Registry, SenderExt,
};
use tokio::time::timeout;

const MIB: usize = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

async fn pair(place: &str, client: &Options, server: &Options) -> (BoxChannel, BoxChannel) {
    let registry = Registry::new();
    let endpoint = format!("resume+mem:{place}").parse().unwrap();
    let session = SessionOptions::default();
    let mut acceptor: Box<dyn DynAcceptor> =
        listen(&registry, &endpoint, server, session).await.unwrap();
    let connector = connector(&registry, &endpoint, client, session).unwrap();
    let (client, server) = tokio::join!(connector.connect(), acceptor.accept());
    // Accept further connections, so that the session can resume.
    tokio::spawn(async move { while acceptor.accept().await.is_ok() {} });
    (client.unwrap(), server.unwrap())
}

fn within(mib: usize) -> (MemoryBudget, Options) {
    let budget = MemoryBudget::new(ByteSize::mib(mib));
    (budget.clone(), Options { memory: Some(budget), ..Options::default() })
}

fn is_for_memory(reason: &CloseReason) -> bool {
    match reason {
        CloseReason::SessionLost(lost) => {
            matches!(&lost.cause, LostBy::Line(CloseReason::NoMemory(_)))
        }
        reason => matches!(reason, CloseReason::NoMemory(_)),
    }
}

#[tokio::test]
async fn messages_waiting_for_a_consumer_are_counted() {
    // Each message fits into the budget, but not all the messages that may wait.
    let (budget, options) = within(10);
    let (client, server) = pair("waiting", &Options::default(), &options).await;
    let ((mut sender, _in), (_out, mut receiver)) = (client.split(), server.split());
    let sending =
        tokio::spawn(async move { while sender.send(vec![b'x'; 3 * MIB]).await.is_ok() {} });
    // Receive nothing until the budget is exceeded.
    let refused = async {
        while budget.refused() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, refused).await.expect("the budget is never exceeded");
    assert!(budget.used().bytes() <= 10 * MIB / 4 * 5, "{}", budget.used());
    // A refused message was not acknowledged, so it is sent again once there is room.
    for _ in 0..5 {
        match timeout(LIMIT, receiver.recv()).await.expect("nothing is received") {
            Incoming::Message(message) => assert_eq!(message.len(), 3 * MIB),
            Incoming::End(reason) => {
                assert!(is_for_memory(&reason), "{reason}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    sending.abort();
}

#[tokio::test]
async fn kept_messages_are_counted_until_they_are_acknowledged() {
    let (budget, options) = within(10);
    let (client, server) = pair("kept", &options, &Options::default()).await;
    let ((mut sender, _in), (_out, mut receiver)) = (client.split(), server.split());
    sender.send(vec![b'x'; 3 * MIB]).await.unwrap();
    assert!(budget.used().bytes() >= 3 * MIB, "{}", budget.used());
    let Incoming::Message(message) = receiver.recv().await else { panic!("no message") };
    assert_eq!(message.len(), 3 * MIB);
    let given_back = async {
        while budget.used().bytes() > 0 {
            let _ = timeout(Duration::from_millis(1), receiver.recv()).await;
        }
    };
    timeout(LIMIT, given_back).await.expect("the memory is not released");
    assert_eq!(budget.refused(), 0);
    // Exceeding the budget ends the session, and the sender gets the reason.
    let sent = async {
        loop {
            if let Err(error) = sender.send(vec![b'x'; 16 * MIB]).await {
                return error;
            }
        }
    };
    let error = timeout(LIMIT, sent).await.expect("the session does not end");
    let reason = error.close_reason().unwrap();
    assert!(is_for_memory(reason), "{reason}");
}

/// When the consumer takes one message, the receiver takes all waiting messages.
#[tokio::test]
async fn messages_that_the_receiver_has_taken_but_not_returned_are_counted() {
    let (budget, options) = within(10);
    let (client, server) = pair("taken", &Options::default(), &options).await;
    let ((mut sender, _in), (_out, mut receiver)) = (client.split(), server.split());
    for _ in 0..5 {
        sender.send(vec![b'x'; MIB]).await.unwrap();
    }
    let waiting = async {
        while budget.used().bytes() < 5 * MIB {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, waiting).await.expect("not everything has arrived");
    for _ in 0..5 {
        let Incoming::Message(_) = receiver.recv().await else { panic!("no message") };
        assert!(budget.used().bytes() >= 5 * MIB, "{}", budget.used());
    }
    let given_back = async {
        while budget.used().bytes() > 0 {
            let _ = timeout(Duration::from_millis(1), receiver.recv()).await;
        }
    };
    timeout(LIMIT, given_back).await.expect("the memory is not released");
    assert_eq!(budget.refused(), 0);
}
