//! Tests `length-prefix` against an independent implementation in Python.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::Bytes;
use tieline_proto::{DEFAULT_MAX_MESSAGE, EncodeError, FramingKind};
use tieline_testkit::wait::block_on;
use tieline_transport::{
    Channel, ChildExit, CloseReason, Connection, Endpoint, Incoming, Options, Process, Receiver,
    ReceiverExt, Registry, SendError, SenderExt, Transport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Returns a program that sends each message back with its bytes reversed.
fn peer() -> Endpoint {
    let program =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/python/length_prefix_peer.py");
    let endpoint = Endpoint::exec("python3", [program, "echo"]);
    let text = endpoint.with_framing(FramingKind::LengthPrefix).exact().to_string();
    assert!(text.starts_with("length-prefix+exec:python3 "), "{text}");
    text.parse().unwrap()
}

#[test]
fn messages_of_every_length_pass_in_both_directions() {
    block_on(async {
        let channel = Registry::new().connect(&peer(), &Options::default()).await.unwrap();
        let (mut sender, mut receiver) = channel.split();
        let lengths =
            [0, 1, 2, 255, 256, 257, 65_535, 65_536, 1 << 20, DEFAULT_MAX_MESSAGE.bytes()];
        let messages =
            lengths.map(|length| Bytes::from_iter((0..length).map(|at| (at % 251) as u8)));
        let sending = async {
            for message in &messages {
                sender.send(message.clone()).await.unwrap();
            }
            sender.close().await.unwrap();
        };
        let receiving = async {
            for message in &messages {
                let Incoming::Message(answer) = receiver.recv().await else {
                    panic!("no response")
                };
                assert!(answer.iter().rev().eq(message), "a message of {} bytes", message.len());
            }
            exit(&mut receiver).await
        };
        let ((), exit) = tokio::join!(sending, receiving);
        assert!(exit.status.success(), "{exit}");
    });
}

#[test]
fn oversize_message_is_refused_without_sending_any_of_it() {
    block_on(async {
        let channel = Registry::new().connect(&peer(), &Options::default()).await.unwrap();
        let (mut sender, mut receiver) = channel.split();
        let large = vec![0; DEFAULT_MAX_MESSAGE.bytes() + 1];
        let refused = sender.send(large).await.unwrap_err();
        let SendError::Message(refused) = refused else { panic!("{refused:?}") };
        assert!(matches!(refused.error, EncodeError::Oversize { .. }), "{:?}", refused.error);
        sender.send("abc").await.unwrap();
        let Incoming::Message(answer) = receiver.recv().await else { panic!("no response") };
        assert_eq!(answer, "cba");
    });
}

#[test]
fn peer_reports_an_end_within_a_frame() {
    for (part, says) in [
        (&b"\0\0\0\x05hel"[..], "3 of 5 bytes of the payload"),
        (b"\0\0\0\x05", "0 of 5 bytes of the payload"),
        (b"\0\0", "2 of 4 bytes of the length"),
    ] {
        block_on(async {
            let config = Process.config(&peer(), &Options::default()).unwrap();
            let connection = Process.connect(&config).await.unwrap();
            let control = connection.control().clone();
            let (mut read, mut write) = connection.into_split();
            write.write_all(part).await.unwrap();
            write.shutdown().await.unwrap();
            assert_eq!(read.read(&mut [0; 1]).await.unwrap(), 0, "a response to a partial frame");
            let CloseReason::ChildExited(exit) = control.stop().await else { panic!("no exit") };
            assert_eq!(exit.status.code(), Some(3));
            let stderr = String::from_utf8_lossy(&exit.stderr_tail);
            assert!(stderr.contains(says), "{stderr}");
        });
    }
}

async fn exit(receiver: &mut impl Receiver) -> ChildExit {
    match receiver.recv().await {
        Incoming::End(CloseReason::ChildExited(exit)) => Arc::unwrap_or_clone(exit),
        other => panic!("not an exit: {other:?}"),
    }
}
