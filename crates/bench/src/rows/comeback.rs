//! The duration of the interruption of a local session when its connection is cut, from the cut to the
//! response to a message that is sent at that moment.
//!
//! A relay in this process connects the two ends. It cuts the connection by dropping both of its own
//! connections.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tieline_link::SessionOptions;
use tieline_transport::{Channel, Endpoint, Options, Receiver, Registry, Sender, SenderExt};
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::message;
use crate::compare::{Bench, Result};
use crate::peer::Peer;
use crate::report::{Goal, TableLine, Unit};
use crate::stats::quantiles;

const CUTS: usize = 1000;
const GOAL: Goal = Goal::AtMost(20e-3, Unit::Time);

pub(super) fn run(bench: &Bench) -> Result<Vec<TableLine>> {
    let peer = Peer::start("session-echo")?;
    let figures = bench.runtime.block_on(away(&peer.socket()))?;
    let [median, p99] = quantiles(figures, [0.5, 0.99]);
    let work = "session, from a cut to the next answer";
    Ok(vec![
        TableLine::alone(format!("{work}: median"), Unit::Time, median, None),
        TableLine::alone(format!("{work}: p99 of {CUTS}"), Unit::Time, p99, Some(GOAL)),
    ])
}

async fn away(server: &Path) -> Result<Vec<f64>> {
    let place = tempfile::tempdir()?;
    let relay = Relay::listen(place.path().join("relay.sock"), server.to_owned())?;
    let endpoint = Endpoint::unix(place.path().join("relay.sock")).resumable();
    let (options, session) = (Options::default(), SessionOptions::default());
    let connector = tieline_link::connector(&Registry::new(), &endpoint, &options, session)?;
    let (mut sender, mut receiver) = connector.connect().await?.split();
    let mut figures = Vec::with_capacity(CUTS);
    answer(&mut sender, &mut receiver).await?;
    for _ in 0..CUTS {
        relay.cut();
        let begun = Instant::now();
        answer(&mut sender, &mut receiver).await?;
        figures.push(begun.elapsed().as_secs_f64());
    }
    match relay.connections() {
        made if made > CUTS => Ok(figures),
        made => Err(format!("only {made} connections were made").into()),
    }
}

async fn answer(sender: &mut impl Sender, receiver: &mut impl Receiver) -> Result<()> {
    sender.send(&b"is anything there?"[..]).await?;
    message(receiver).await?;
    Ok(())
}

/// A relay that connects each client to the server until the connection is cut.
struct Relay {
    cuts: watch::Sender<u64>,
    made: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Relay {
    fn listen(here: PathBuf, server: PathBuf) -> Result<Self> {
        let listener = UnixListener::bind(here)?;
        let cuts = watch::Sender::new(0);
        let (counted, made) = watch::channel(0);
        let cut = cuts.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                counted.send_modify(|made| *made += 1);
                let server = server.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = join(near, &server) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Ok(Self { cuts, made, task })
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    fn connections(&self) -> usize {
        *self.made.borrow()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn join(mut near: UnixStream, server: &Path) -> std::io::Result<()> {
    let mut far = UnixStream::connect(server).await?;
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
