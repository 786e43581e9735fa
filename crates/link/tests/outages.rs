//! Messages during an outage, and links that are ended during one.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use support::{
    FarEnds, Step, World, drain, end, kill, last, link, message, pid, poll_once, reset, shell,
    state, within,
};
use tieline_link::{LineState, LineStates, Link, LinkOptions, LinkReceiver, LinkSender, Recovery};
use tieline_proto::BackoffConfig;
use tieline_testkit::wait;
use tieline_transport::{
    Channel, CloseReason, Control, Incoming, ReceiverExt, SendError, SenderExt,
};
use tokio::task::JoinHandle;

/// A link whose line was lost, and whose next attempt to connect is pending.
struct Outage {
    sender: LinkSender,
    /// Yields the item that was received, and the receiver.
    receiving: JoinHandle<(Incoming, LinkReceiver)>,
    control: Control,
    states: LineStates,
    world: Arc<World>,
    far_ends: FarEnds,
}

async fn outage() -> Outage {
    let script = [Step::Line, Step::Wait];
    let (link, far, world, far_ends) = link(script, LinkOptions::default()).await;
    let (states, control) = (link.states(), link.control().clone());
    let (sender, mut receiver) = link.split();
    drop(far);
    let receiving = tokio::spawn(async move {
        let incoming = within("the reset or the end", receiver.recv()).await;
        (incoming, receiver)
    });
    world.waits(1).await;
    Outage { sender, receiving, control, states, world, far_ends }
}

#[tokio::test]
async fn send_during_an_outage_waits_for_the_next_line() {
    let Outage { mut sender, receiving, world, mut far_ends, .. } = outage().await;
    // A cancelled send sends nothing.
    assert!(poll_once(sender.send("given up")).await.is_none());
    let sending = tokio::spawn(async move { (sender.send("kept").await, sender) });
    world.go_on();
    let (sent, _sender) = within("the send", sending).await.unwrap();
    sent.unwrap();
    let (incoming, _receiver) = within("the receiver", receiving).await.unwrap();
    let Incoming::Reset(reset) = incoming else { panic!("{incoming:?}") };
    assert_eq!((reset.epoch, reset.lost), (2, 0));
    let (_their_sender, mut far) = far_ends.recv().await.unwrap().split();
    assert_eq!(message(&mut far).await, "kept");
}

#[tokio::test]
async fn unwritten_messages_are_reported_by_both_halves_and_not_sent_again() {
    let (link, far, _world, mut far_ends) = link([], LinkOptions::default()).await;
    let (mut sender, mut receiver) = link.split();
    sender.send("written").await.unwrap();
    for _ in 0..3 {
        sender.feed("queued").await.unwrap();
    }
    drop(far);
    assert_eq!(reset(&mut receiver).await.lost, 3);
    sender.feed("new").await.unwrap();
    assert!(matches!(sender.flush().await, Err(SendError::Lost(3))));
    sender.flush().await.unwrap();
    let (_their_sender, mut far) = far_ends.recv().await.unwrap().split();
    assert_eq!(message(&mut far).await, "new");
    // Each loss is reported once.
    drop((_their_sender, far));
    assert_eq!(reset(&mut receiver).await.lost, 0);
    sender.flush().await.unwrap();
}

#[tokio::test]
async fn send_reports_the_loss_of_the_line() {
    let (link, far, _world, _far_ends) = link([], LinkOptions::default()).await;
    let (mut sender, mut receiver) = link.split();
    // The message is larger than the line's buffer, and the peer does not read.
    let mut sending = pin!(sender.send(vec![b'x'; 1 << 20]));
    assert!(poll_once(&mut sending).await.is_none());
    drop(far);
    let (sent, reset) = tokio::join!(within("the send", sending), reset(&mut receiver));
    assert!(matches!(sent, Err(SendError::Lost(1))), "{sent:?}");
    assert_eq!(reset.lost, 1);
}

#[tokio::test]
async fn flush_ends_with_its_line_without_waiting_for_the_next() {
    let script = [Step::Line, Step::Wait];
    let (link, far, world, _far_ends) = link(script, LinkOptions::default()).await;
    let (mut sender, mut receiver) = link.split();
    let sending = tokio::spawn(async move { (sender.send(vec![b'x'; 1 << 20]).await, sender) });
    tokio::task::yield_now().await;
    // The peer closes its direction, but neither reads nor disconnects.
    let (mut their_sender, _their_receiver) = far.split();
    their_sender.close().await.unwrap();
    let _receiving = tokio::spawn(async move { receiver.recv().await });
    world.waits(1).await;
    let (sent, _sender) = within("the flush", sending).await.unwrap();
    assert!(matches!(sent, Err(SendError::Lost(1))), "{sent:?}");
}

/// Ends a link during an outage while a sender waits. The sender must be released.
async fn released<F: Future<Output = ()>>(
    ends: impl FnOnce(Control) -> F,
) -> (SendError, CloseReason) {
    let Outage { mut sender, receiving, control, mut states, world, .. } = outage().await;
    let sending = tokio::spawn(async move { sender.send("never").await });
    tokio::task::yield_now().await;
    ends(control.clone()).await;
    let refused = within("the sender's release", sending).await.unwrap().unwrap_err();
    let (incoming, receiver) = within("the receiver's release", receiving).await.unwrap();
    let Incoming::End(reason) = incoming else { panic!("{incoming:?}") };
    world.waits(0).await;
    assert_eq!(control.close_reason().unwrap().to_string(), reason.to_string());
    drop(receiver);
    assert!(last(&mut states).await.0);
    (refused, reason)
}

#[tokio::test]
async fn stop_during_an_outage_releases_both_halves_and_reports_the_last_loss() {
    let (refused, reason) = released(|control| async move {
        assert!(matches!(control.stop().await, CloseReason::ByPeer));
    })
    .await;
    assert!(matches!(refused.close_reason(), Some(CloseReason::ByPeer)), "{refused:?}");
    assert!(matches!(reason, CloseReason::ByPeer));
}

#[tokio::test]
async fn abort_during_an_outage_releases_both_halves() {
    let (refused, reason) = released(|control| async move { control.abort() }).await;
    assert!(matches!(refused.close_reason(), Some(CloseReason::ByUs)), "{refused:?}");
    assert!(matches!(reason, CloseReason::ByUs));
}

#[tokio::test]
async fn closing_or_dropping_the_sender_during_an_outage_ends_the_link() {
    for closes in [true, false] {
        let Outage { mut sender, receiving, mut states, world, .. } = outage().await;
        if closes {
            sender.close().await.unwrap();
        } else {
            drop(sender);
        }
        let (incoming, _receiver) = within("the receiver", receiving).await.unwrap();
        assert!(matches!(incoming, Incoming::End(CloseReason::ByPeer)), "{incoming:?}");
        world.waits(0).await;
        assert!(last(&mut states).await.0);
    }
}

#[tokio::test]
async fn dropping_the_receiver_during_an_outage_ends_the_link() {
    let Outage { mut sender, receiving, mut states, world, .. } = outage().await;
    receiving.abort();
    let refused = within("the send", sender.send("never")).await.unwrap_err();
    assert!(matches!(refused.close_reason(), Some(CloseReason::ByPeer)), "{refused:?}");
    world.waits(0).await;
    assert!(last(&mut states).await.0);
}

#[tokio::test]
async fn dropping_a_connected_link_ends_the_line() {
    let (link, far, _world, _far_ends) = link([], LinkOptions::default()).await;
    let (mut states, control) = (link.states(), link.control().clone());
    drop(link);
    assert!(last(&mut states).await.0);
    assert!(matches!(control.close_reason(), Some(CloseReason::ByUs)));
    let (_their_sender, mut far) = far.split();
    end(&mut far).await;
}

#[tokio::test]
async fn abort_releases_the_line_at_once_even_if_its_halves_are_held() {
    let (link, far, _world, _far_ends) = link([], LinkOptions::default()).await;
    let control = link.control().clone();
    let (mut sender, mut receiver) = link.split();
    control.abort();
    let (mut their_sender, mut far) = far.split();
    end(&mut far).await;
    assert!(within("the write", their_sender.send("x")).await.is_err());
    assert!(matches!(end(&mut receiver).await, CloseReason::ByUs));
    assert!(sender.send("x").await.is_err());
}

#[tokio::test]
async fn closed_link_does_not_reconnect() {
    let (link, far, _world, mut far_ends) = link([], LinkOptions::default()).await;
    let mut states = link.states();
    let (mut sender, mut receiver) = link.split();
    let (mut their_sender, mut far) = far.split();
    sender.send("last").await.unwrap();
    sender.close().await.unwrap();
    state(&mut states, |state| matches!(state, LineState::Draining)).await;
    assert_eq!(message(&mut far).await, "last");
    end(&mut far).await;
    // Messages that the peer still sends are received.
    their_sender.send("answer").await.unwrap();
    drop((their_sender, far));
    assert_eq!(message(&mut receiver).await, "answer");
    drain(&mut receiver).await;
    assert!(far_ends.try_recv().is_err());
    assert!(last(&mut states).await.0);
}

#[tokio::test]
async fn sender_still_works_after_the_receiver_is_dropped() {
    let (link, far, _world, _far_ends) = link([], LinkOptions::default()).await;
    let (mut sender, receiver) = link.split();
    let (_their_sender, mut far) = far.split();
    drop(receiver);
    sender.send("one way").await.unwrap();
    assert_eq!(message(&mut far).await, "one way");
    drop((_their_sender, far));
    loop {
        if let Err(error) = within("the send", sender.send("gone?")).await {
            break assert!(error.close_reason().is_some(), "{error:?}");
        }
    }
}

#[tokio::test]
async fn line_whose_peer_stops_reading_is_replaced() {
    let (link, far, _world, mut far_ends) = link([], LinkOptions::default()).await;
    let (mut sender, mut receiver) = link.split();
    let (mut their_sender, their_receiver) = far.split();
    their_sender.send("sent before").await.unwrap();
    drop(their_receiver);
    let lost = loop {
        if let Err(error) = within("the send", sender.send("still reading?")).await {
            break error;
        }
    };
    assert!(matches!(lost, SendError::Lost(1)), "{lost:?}");
    assert_eq!(message(&mut receiver).await, "sent before");
    let reset = reset(&mut receiver).await;
    assert!(matches!(reset.cause, CloseReason::Io(_)), "{}", reset.cause);
    sender.send("hello").await.unwrap();
    let (_their_sender, mut far) = far_ends.recv().await.unwrap().split();
    assert_eq!(message(&mut far).await, "hello");
}

#[tokio::test(start_paused = true)]
async fn every_way_of_ending_a_link_works_during_a_backoff() {
    for way_out in 0..5 {
        let options = LinkOptions::recovering(Recovery::Reconnect(BackoffConfig::REMOTE));
        let (link, far, _world, mut far_ends) = link([], options).await;
        let (mut states, control) = (link.states(), link.control().clone());
        let (mut sender, mut receiver) = link.split();
        drop(far);
        assert!(poll_once(receiver.recv()).await.is_none());
        assert!(matches!(states.present(), LineState::Backoff { .. }), "{}", states.present());
        match way_out {
            0 => drop((sender, receiver)),
            1 => assert!(matches!(control.stop().await, CloseReason::ByPeer)),
            2 => control.abort(),
            3 => sender.close().await.unwrap(),
            _ => drop(receiver),
        }
        assert!(last(&mut states).await.0, "{way_out}");
        match control.close_reason() {
            Some(CloseReason::ByUs) => assert_eq!(way_out, 2),
            reason => assert!(matches!(reason, Some(CloseReason::ByPeer)), "{way_out}: {reason:?}"),
        }
        assert!(far_ends.try_recv().is_err(), "{way_out}");
    }
}

#[tokio::test]
async fn dropping_the_link_kills_the_child_of_a_lost_line() {
    // The child has closed its stdout, and ignores the end of its input and SIGTERM.
    let script = "trap '' TERM; echo $$; exec >&-; while :; do sleep 10000; done";
    let link = Link::connect(shell(script), LinkOptions::default()).await.unwrap();
    let mut states = link.states();
    let (sender, mut receiver) = link.split();
    let child = pid(&mut receiver).await;
    let receiving = tokio::spawn(async move { receiver.recv().await });
    state(&mut states, |state| matches!(state, LineState::Backoff { .. })).await;
    assert!(wait::is_running(child));
    receiving.abort();
    drop(sender);
    let _ = receiving.await;
    wait::until_reaped(child);
    assert!(last(&mut states).await.0);
}

#[tokio::test]
async fn child_killed_during_close_is_not_restarted() {
    // The child ignores the end of its input.
    let script = "echo $$; while :; do sleep 10000; done";
    let link = Link::connect(shell(script), LinkOptions::default()).await.unwrap();
    let mut states = link.states();
    let (mut sender, mut receiver) = link.split();
    let child = pid(&mut receiver).await;
    sender.close().await.unwrap();
    state(&mut states, |state| matches!(state, LineState::Draining)).await;
    kill(child);
    let reason = drain(&mut receiver).await;
    assert!(reason.child_exit().is_some(), "{reason}");
    assert!(last(&mut states).await.0);
}
