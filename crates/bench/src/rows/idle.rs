//! What rows share that look at the memory of connections which were used and idle now.

use std::future::poll_fn;
use std::task::Poll;

use tieline_transport::{Channel, Incoming, Receiver, Sender, SenderExt};

use crate::compare::{Bench, Result};
use crate::machine;

/// How many there are, `all` of a full run and as many as this process may hold; `None` where the system
/// does not tell how much memory a process has.
pub(super) fn connections(bench: &Bench, all: usize) -> Option<usize> {
    machine::resident(std::process::id())?;
    let spared = 100;
    let within = machine::descriptor_limit().map_or(usize::MAX, |it| it.saturating_sub(spared));
    Some(if bench.quick { 500 } else { all }.min(within))
}

/// By how much each connection lets the server grow that has this number, behind a first one. Each round
/// has a server of its own, with an untouched heap.
pub(super) fn growth<T>(pid: u32, connections: usize, used: impl Fn() -> Result<T>) -> Result<f64> {
    let resident = || machine::resident(pid).ok_or("the peer has ended");
    let _first = used()?;
    let before = resident()?;
    let held = (0..connections).map(|_| used()).collect::<Result<Vec<_>>>()?;
    let after = resident()?;
    Ok((after as f64 - before as f64) / held.len() as f64)
}

/// Gives back what comes, until the end. What came together is answered together, as a server does that
/// means well.
pub(super) async fn echo(channel: impl Channel) -> Result<()> {
    let (mut sender, mut receiver) = channel.split();
    loop {
        let incoming = poll_fn(|cx| match receiver.poll_recv(cx) {
            Poll::Ready(incoming) => Poll::Ready(Ok(incoming)),
            Poll::Pending => match sender.poll_flush(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            },
        });
        let Incoming::Message(message) = incoming.await? else { return Ok(()) };
        sender.feed(message).await?;
    }
}
