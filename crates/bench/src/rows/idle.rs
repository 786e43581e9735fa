//! Functions for the rows that measure the memory of idle connections.

use std::future::poll_fn;
use std::task::Poll;

use tieline_transport::{Channel, Incoming, Receiver, Sender, SenderExt};

use crate::compare::{Bench, Result};
use crate::machine;

/// Returns the number of connections to open, which is `all` in a full run if the descriptor limit
/// allows it. Returns `None` if the system does not report the memory of a process.
pub(super) fn connections(bench: &Bench, all: usize) -> Option<usize> {
    machine::resident(std::process::id())?;
    let spared = 100;
    let within = machine::descriptor_limit().map_or(usize::MAX, |it| it.saturating_sub(spared));
    Some(if bench.quick { 500 } else { all }.min(within))
}

/// Returns the number of bytes by which each connection after the first increases the memory of the
/// server with this process ID. Each round needs a new server, which has a fresh heap.
pub(super) fn growth<T>(pid: u32, connections: usize, used: impl Fn() -> Result<T>) -> Result<f64> {
    let resident = || machine::resident(pid).ok_or("the peer has ended");
    let _first = used()?;
    let before = resident()?;
    let held = (0..connections).map(|_| used()).collect::<Result<Vec<_>>>()?;
    let after = resident()?;
    Ok((after as f64 - before as f64) / held.len() as f64)
}

/// Echoes messages until the channel ends. Messages that are received together are answered together, as
/// in a well-written server.
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
