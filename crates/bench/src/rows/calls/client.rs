//! The client of a call in a process of its own, which measures the rounds itself, like those of the
//! other libraries.

use std::future::Future;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tieline_proto::Lines;
use tieline_rpc::{Peer, PeerOptions};
use tieline_transport::Connector;

use super::{by_hand, careful, in_flight};
use crate::compare::{Result, runtime};
use crate::peer::connector;

/// A client that can be called from many tasks.
pub(super) trait Echo: Clone + Send + Sync + 'static {
    /// Sends the text and returns the response.
    fn echo(&self, text: &str) -> impl Future<Output = Result<String>> + Send;
}

impl Echo for Peer {
    async fn echo(&self, text: &str) -> Result<String> {
        let (text,) = self.call::<(String,)>("echo", (text,)).await?;
        Ok(text)
    }
}

impl Echo for Arc<by_hand::Client> {
    async fn echo(&self, text: &str) -> Result<String> {
        by_hand::Client::echo(self, text).await
    }
}

/// Runs a client until the end of the input. Each line is a command: `many 64 100 16` runs 64 tasks, each
/// with 100 calls of 16 bytes, one after the other, and the output is the duration in seconds.
pub(crate) fn run(kind: &str, socket: PathBuf) -> Result<()> {
    let runtime = runtime()?;
    match kind {
        "tieline" => {
            let channel = runtime.block_on(connector(socket, Lines::default())?.connect())?;
            let (peer, driver) = Peer::new(channel, (), PeerOptions::default());
            runtime.spawn(driver);
            obey(&runtime, &peer)
        }
        "by-hand" => obey(&runtime, &runtime.block_on(by_hand::Client::connect(socket))?),
        "careful" => obey(&runtime, &runtime.block_on(careful::Client::connect(socket))?),
        _ => Err(format!("unknown client {kind:?}").into()),
    }
}

fn obey(runtime: &tokio::runtime::Runtime, client: &impl Echo) -> Result<()> {
    let mut stdout = io::stdout();
    let mut report = |line: &str| -> Result<()> {
        writeln!(stdout, "{line}")?;
        Ok(stdout.flush()?)
    };
    report("ready")?;
    for line in io::stdin().lock().lines() {
        report(&runtime.block_on(command(client, &line?))?.to_string())?;
    }
    Ok(())
}

async fn command(client: &impl Echo, command: &str) -> Result<f64> {
    let words: Vec<&str> = command.split(' ').collect();
    let ["many", tasks, calls, length] = *words else {
        return Err(format!("unknown command {command:?}").into());
    };
    let (calls, text): (u32, Arc<str>) = (calls.parse()?, "x".repeat(length.parse()?).into());
    let begun = Instant::now();
    in_flight(tasks.parse()?, || {
        let (client, text) = (client.clone(), text.clone());
        async move {
            for _ in 0..calls {
                if client.echo(&text).await?.len() != text.len() {
                    return Err("the server did not echo the text".into());
                }
            }
            Ok(())
        }
    })
    .await?;
    Ok(begun.elapsed().as_secs_f64())
}
